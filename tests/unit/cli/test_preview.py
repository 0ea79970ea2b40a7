"""A plan in a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from rich.console import Console

from collab.cli.preview import alternatives_table, preview, sentences
from collab.cli.timeline import Timeline, shortened
from collab.errors import PlanError
from collab.planner.chains import Option, Solution, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.explain import alternatives
from collab.planner.gantt import Bar, Gantt, Row, pipeline_gantt
from tests.unit.cli.foreign import CAMERA, CHAINS, make
from tests.unit.planner.profiles import chain, device, link, meshed, profile, solve


def printed(renderable, width=80):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


def solution(made, placed, wants=None):
    """A solution whose best chain is the one given."""
    evaluator = Evaluator(made)
    found = solve(changed(made, devices=made.devices[:3]), wants or Wants())
    best = Option(placed, evaluator.evaluate(placed).costs)
    return replace(found, best=best, bound=best.costs.of((wants or Wants()).objective))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_preview_keeps_to_the_terminals_width_and_loses_no_chart(name, width):
    made = make()
    text = printed(preview(made, Wants(), solution(made, CHAINS[name])), width)
    assert all(len(line) <= width for line in text.splitlines())
    for part in ("One request", "Pipeline", "alternative", "answers/s", "found by every chain"):
        assert part in text
    assert "\x1b" not in text
    axes = [line for line in text.splitlines() if line.strip().startswith("└─")]
    # One cell stays free for the last mark of the axis.
    assert [len(line) for line in axes] == [width - 1, width - 1]


def test_a_preview_shows_stages_links_and_their_figures_with_units():
    made = make()
    text = printed(preview(made, Wants(), solution(made, CHAINS["two devices"])))
    assert "vision <b>&.tflite, 6 operators: cam → board at 2" in text
    assert "602.1" not in text
    assert "150.0 kB, stays on cam" in text
    assert 'operators 0..2 of 6: CONV_2D … ?[2J<evil>&"' in text
    assert "12.3 ms, 8.0 MB of 2.00 GB memory, 1 thread" in text
    assert "179.2 kB for 250.9 kB, raw+lz4 over grpc, 18.4 ms" in text
    assert "3.9 ms, 16.0 MB of 8.00 GB memory, 4 threads" in text
    assert re.search(r"Pipeline, its first 6 requests: one answer every 15.9 ms", text)


def test_the_best_plan_of_one_device_says_why():
    made = make()
    wants = Wants()
    placed = chain((6, "cam"))
    fast = changed(made, devices=(changed(made.devices[0], op_ms=(0.5,) * 6), *made.devices[1:]))
    said = sentences(fast, wants, solution(fast, placed))
    assert any(each.startswith("one device is best: ") for each in said)
    assert said[0] == "cam takes 3.3 ms of a request, 100 % of it, and is the pipeline's bottleneck with " + (
        "3.3 ms for each answer"
    )


def test_improvements_are_told_only_where_a_planner_is_given():
    made = changed(make(), devices=make().devices[:3])
    wants = Wants()
    found = solve(made, wants)
    without, told = sentences(made, wants, found), sentences(made, wants, found, solve)
    assert set(without) < set(told)
    assert any(" would give " in each and " instead of " in each for each in told)
    alone = profile([device("a", (1,) * 4)], [])
    best = solve(alone, wants)
    told = sentences(alone, wants, best, lambda given, asked: best)
    assert "no single faster device or link would gain 5 % or more" in told


def test_how_sure_the_planner_is_is_said():
    made, wants = make(), Wants()
    exact = solution(made, CHAINS["two devices"])
    assert sentences(made, wants, exact)[-1] == "found by every chain; exact"
    unsure = replace(exact, method="beam search", bound=0.9 * exact.best.costs.latency_ms)
    assert sentences(made, wants, unsure)[-1] == (
        "found by beam search; at most 10 % from the best there can be"
    )


def test_a_plan_that_is_worse_than_one_device_says_so():
    made = profile(
        [device("a", (1,) * 4), device("b", (9,) * 4), device("c", (9,) * 4)], meshed("a", "b", "c")
    )
    found = solution(made, chain((1, "b"), (4, "c")))
    # 36 ms and 21 for the move, rather than 4.
    assert "the best single device, a, would be 14.2 times as good" in sentences(made, Wants(), found)


def test_columns_that_nothing_fills_are_left_out():
    made = make()
    rows = alternatives(made, Wants(), solution(made, CHAINS["two devices"]))
    plain = printed(alternatives_table(made, rows), 120)
    assert "energy" not in plain
    assert "metered" not in plain
    assert "gate (9.0 MB too large)" in plain
    powered = changed(
        made,
        devices=tuple(changed(each, watts=5.0) for each in made.devices),
        links=tuple(changed(each, metered=True) for each in made.links),
    )
    rows = alternatives(powered, Wants(), solution(powered, CHAINS["two devices"]))
    full = printed(alternatives_table(powered, rows), 120)
    # 5 W for 12.3 + 0.28 + 0.13 + 3.9 ms.
    assert re.search(r"this plan cam → board at 2 .* 83 mJ\s+180.2 kB", full)


def test_an_impossible_plan_is_an_error_of_one_line():
    made = make(links=())
    impossible = CHAINS["two devices"]
    best = Option(impossible, Evaluator(made).evaluate(impossible).costs)
    with pytest.raises(PlanError, match="cannot run"):
        preview(made, Wants(), Solution(best, (), None, "hand", 0.0))


# --- charts --------------------------------------------------------------------------------


def bar(start, duration, occupied=None, what="compute", request=0):
    return Bar(request, what, 0, start, duration, duration if occupied is None else occupied)


def rows_of(text):
    return [line.split("│", 1)[1].rstrip() for line in text.splitlines() if "│" in line]


def test_bars_stand_where_their_time_is_in_halves_of_a_cell():
    chart = Gantt(
        (
            Row("a", (bar(0, 8), bar(12, 4))),
            Row("a → b", (bar(8, 4, 2, "move"),)),
            Row("c", (bar(15.9, 0.1),)),
        ),
        16.0,
    )
    # 3 cells go to the frame and 5 to the names: two cells a ms.
    drawn = rows_of(printed(Timeline(chart), 40))
    assert drawn[0] == "█" * 16 + " " * 8 + "█" * 8
    assert drawn[1] == " " * 16 + "━" * 4 + "┄" * 4
    # Shorter than half a cell, and still there.
    assert drawn[2] == " " * 31 + "▐"
    odd = rows_of(printed(Timeline(Gantt((Row("abcde", (bar(0.25, 0.5), bar(2, 14))),), 16.0)), 40))
    assert odd[0] == "▐▌" + " " * 2 + "█" * 28


def test_the_axis_has_round_marks_and_a_unit():
    axis = printed(Timeline(Gantt((Row("abcde", (bar(0, 16),)),), 16.0)), 40).splitlines()
    assert axis[-2].index("┬") == 7 + 5 * 2
    assert axis[-1].split() == ["0", "5", "10", "15", "ms"]
    long = printed(Timeline(Gantt((Row("a", (bar(0, 60_000),)),), 60_000.0)), 40)
    assert long.splitlines()[-1].split()[-1] == "s"
    empty = printed(Timeline(Gantt((Row("a", (bar(0, 0),)),), 0.0)), 40)
    assert rows_of(empty) == ["▌"]


def test_requests_of_a_pipeline_are_told_apart_by_digits():
    evaluator = Evaluator(profile([device("a", (4,) * 4)], [link("a", "b")]))
    chart = pipeline_gantt(evaluator, chain((4, "a")), 4)
    drawn = rows_of(printed(Timeline(chart, by_request=True), 44))
    assert drawn == ["1█████████2█████████3█████████4█████████"]


def test_long_names_are_cut_at_both_ends_of_a_link():
    assert shortened("a → b", 10) == "a → b"
    assert shortened(f"{CAMERA} → board", 20) == "camera.of.t… → board"
    assert shortened(f"{CAMERA} → {CAMERA}", 19) == "camera.… → camera.…"
    assert shortened(CAMERA, 10) == "camera.of…"
