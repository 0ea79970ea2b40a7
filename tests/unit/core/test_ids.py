"""Names that people give, and digests."""

from __future__ import annotations

import pytest

from collab.core.ids import REQUESTER, check_digest, check_name
from collab.errors import InputError


@pytest.mark.parametrize("name", ["a", "Z", "7", "pi-4.kitchen_2", "x" * 63, "a--b", "0.0"])
def test_a_name_of_letters_digits_dots_and_dashes_is_taken(name):
    assert check_name(name, "name:") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 64,
        "-a",
        "a-",
        ".a",
        "a.",
        "_",
        "a b",
        "a/b",
        "../etc",
        "a\n",
        "\na",
        "é",
        "a\0",
        REQUESTER,
        "a@b",
    ],
)
def test_anything_else_is_refused_with_the_rule(name):
    with pytest.raises(InputError, match=r"^nodes\[3\]: .*: use 1 to 63 letters, digits"):
        check_name(name, "nodes[3]:")


def test_a_long_name_is_cut_in_the_message():
    with pytest.raises(InputError) as caught:
        check_name("x" * 100_000, "name:")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_digest_is_64_lower_case_hexadecimal_digits(digest):
    assert check_digest("0123456789abcdef" * 4, "sha256:") == "0123456789abcdef" * 4
    with pytest.raises(InputError, match=r"^sha256: .*: not a SHA-256 in lower-case hexadecimal"):
        check_digest(digest, "sha256:")
