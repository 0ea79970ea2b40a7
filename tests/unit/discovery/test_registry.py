"""The memory of a resource directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.discovery.records import parse_links
from collab.discovery.registry import MAX_LINKS, Registry
from collab.errors import InputError, LimitExceeded

LINKS = [("grpc://10.0.0.1:7", {"rt": "collab.node other", "ep": "a"}), ("/s", {"rt": "sensor"})]


class Clock:
    s = 0.0

    def __call__(self) -> float:
        return self.s


def test_lookups_find_resources_and_endpoints_by_what_is_said_of_either() -> None:
    registry = Registry(Clock())
    registry.register({"ep": "a", "d": "home", "et": "box"}, LINKS, "coap://[::1]:5")
    assert [link[0] for link in parse_links(registry.resources({"rt": "collab.node"}))] == [
        "grpc://10.0.0.1:7"
    ]
    assert [link[0] for link in parse_links(registry.resources({"rt": "sens*"}))] == ["coap://[::1]:5/s"]
    assert len(parse_links(registry.resources({"d": "home"}))) == 2
    assert len(parse_links(registry.resources({"d": "home", "count": "1", "page": "1"}))) == 1
    assert registry.resources({"d": "work"}) == ""
    (endpoint,) = parse_links(registry.endpoints({"rt": "collab.node"}))
    assert endpoint[0] == "/rd/1"
    assert (endpoint[1]["ep"], endpoint[1]["base"], endpoint[1]["et"]) == ("a", "coap://[::1]:5", "box")


def test_registrations_end_with_their_lifetime_unless_refreshed() -> None:
    clock = Clock()
    registry = Registry(clock)
    number = registry.register({"ep": "a", "lt": "60"}, LINKS, "coap://h")
    clock.s = 59
    assert registry.refresh(number, {})
    clock.s = 118
    assert registry.resources({})
    clock.s = 119
    assert not registry.resources({})
    assert not registry.refresh(number, {})


def test_an_endpoint_that_registers_again_takes_its_own_place() -> None:
    registry = Registry(Clock(), limit=1)
    number = registry.register({"ep": "a"}, LINKS, "coap://h")
    assert registry.register({"ep": "a"}, LINKS[:1], "coap://h") == number
    assert len(parse_links(registry.resources({}))) == 1
    with pytest.raises(LimitExceeded):
        registry.register({"ep": "b"}, LINKS, "coap://h")
    assert registry.remove(number)
    assert not registry.remove(number)
    registry.register({"ep": "b"}, LINKS, "coap://h")


@pytest.mark.parametrize(
    "query",
    [{}, {"ep": ""}, {"ep": "a" * 300}, {"ep": "a", "lt": "-1"}, {"ep": "a", "x": "\x00"}, {"ep": "a>"}],
)
def test_registrations_that_cannot_be_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Registry(Clock()).register(query, [], "coap://h")


def test_registrations_are_bounded() -> None:
    with pytest.raises(LimitExceeded):
        Registry(Clock()).register({"ep": "a"}, [("/x", {})] * (MAX_LINKS + 1), "coap://h")
    with pytest.raises(InputError):
        Registry(Clock()).endpoints({"count": "-1"})


texts = st.text(max_size=12)


@given(st.dictionaries(texts, texts, max_size=4), st.lists(st.tuples(texts, st.dictionaries(texts, texts))))
def test_whatever_is_registered_the_answer_is_bounded(query: dict[str, str], links: list) -> None:
    registry = Registry(Clock())
    try:
        registry.register({"ep": "a", **query}, links, "coap://h")
    except (InputError, LimitExceeded):
        return
    assert len(registry.resources({}).encode()) <= 64 * 1024
