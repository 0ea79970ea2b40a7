from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collab.core.tensor import MAX_NAME_BYTES
from collab.graph.names import unique_names


def test_the_first_of_a_name_keeps_it_and_later_ones_are_numbered():
    assert unique_names([(5, b"x"), (7, b"x"), (9, b"y"), (11, b"x")]) == {
        5: "x",
        7: "x#2",
        9: "y",
        11: "x#3",
    }


def test_a_number_never_takes_a_name_that_exists():
    assert unique_names([(0, b"x"), (1, b"x"), (2, b"x#2")]) == {0: "x", 1: "x#3", 2: "x#2"}


def test_an_empty_name_gets_the_tensor_s_index():
    assert unique_names([(3, None), (4, b"")]) == {3: "tensor_3", 4: "tensor_4"}


def test_names_that_cannot_travel_are_made_to():
    names = unique_names([(0, b"a\0b"), (1, b"\xff"), (2, b"n" * 5000), (3, b"n" * 5001)])
    assert names[0] == "a_b"
    assert names[1] == "\ufffd"
    assert names[2] != names[3]
    assert len(names[2]) < MAX_NAME_BYTES


@given(
    st.lists(
        st.sampled_from([b"", b"a", b"a#2", b"a#3", b"tensor_1", "é".encode() * 600, b"\xff"]), max_size=30
    )
)
def test_names_are_unique_short_and_the_same_every_time(raw):
    names = unique_names(enumerate(raw))
    assert len(set(names.values())) == len(raw)
    assert all(0 < len(n.encode()) <= MAX_NAME_BYTES for n in names.values())
    assert names == unique_names(enumerate(raw))
