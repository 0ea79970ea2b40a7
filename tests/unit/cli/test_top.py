"""What top shows, and what its keys do."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from collab.cli.top import MAX_EVENTS, SORTS, Screen, layout, ordered
from collab.coordinator.watching import LinkRow, NodeRow, PlanRow, View

NODES = (
    NodeRow("b", "serving", 1.5, 100, 7),
    NodeRow("a", "draining", 0.5, 300, 1),
    NodeRow("c", "unreachable"),
)


def drawn(view: View, *, width: int = 200, **more: object) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in layout(view, **more):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_view_is_shown_whole():
    plan = PlanRow("digits", (2, 3), "0123456789", {"s0": ("a", "b"), "s1": ("b",)}, 8, 250.0, 1.5, 4.2, None,
                   "digits:2", "canary", ("failover: answers for p",))  # fmt: skip
    text = drawn(
        View(NODES, (plan,), (LinkRow("a", "b", "mqtt", 1.25, 2e6, 10),)), events=("node c is back",)
    )
    for said in (
        "unreachable",
        "2, 3",
        "01234567",
        "s0: a+b  s1: b",
        "250",
        "4.2",
        "mqtt",
        "digits:2 (canary)",
        "failover: answers for p",
        "node c is back",
    ):
        assert said in text, said
    assert "0123456789" not in text


def test_nothing_at_all_can_be_shown():
    assert "nodes" in drawn(View())


def test_what_is_not_markup_is_not_read_as_such():
    assert "[bold]x[/bold]" in drawn(View((NodeRow("[bold]x[/bold]", "serving"),)))


@pytest.mark.parametrize(
    ("sort", "names"), list(zip(SORTS, ("abc", "bac", "abc", "bac"), strict=True)), ids=[*SORTS]
)
def test_nodes_are_in_the_order_that_was_asked_for(sort, names):
    assert "".join(node.name for node in ordered(NODES, sort)) == names


def test_keys_sort_and_end():
    screen = Screen()
    for expected in (*SORTS[1:], SORTS[0]):
        screen.press("s")
        assert screen.sort == expected
        assert expected in screen.footer
    screen.press("x")
    assert not screen.over
    screen.press("q")
    assert screen.over


def test_the_newest_events_are_kept():
    screen = Screen()
    screen.events.extend(map(str, range(100)))
    assert list(screen.events) == [str(n) for n in range(100 - MAX_EVENTS, 100)]
