"""Figures as SVG text."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.cli.axes import covering, log_covering, mark, ticks
from collab.cli.canvas import BOLD, WIDTH, Canvas, clean, fitted, text_width
from collab.cli.svg import Point, Series, lines_svg, plan_svg, scatter_svg
from collab.errors import InputError, PlanError
from collab.planner.evaluate import Evaluator
from collab.planner.explain import memory
from tests.unit.cli.foreign import CHAINS, make

NS = "{http://www.w3.org/2000/svg}"
SIZES = {"title": 18 * BOLD, "head": 14 * BOLD, "strong": 14 * BOLD, "small": 11, "in": 11, "bold": 12 * BOLD}


def parsed(text):
    return ET.fromstring(text)


def words(root):
    """Texts with the boxes that they fill: (text, left, top, right, bottom)."""
    found = []
    for each in root.iter(f"{NS}text"):
        kinds = each.get("class", "").split()
        px = next((SIZES[kind] for kind in kinds if kind in SIZES), 12)
        said = "".join(each.itertext())
        width = text_width(said, px)
        if each.get("transform"):
            continue
        x, y = float(each.get("x")), float(each.get("y"))
        left = {"start": x, "middle": x - width / 2, "end": x - width}[each.get("text-anchor", "start")]
        found.append((said, left, y - 0.75 * px, left + width, y + 0.2 * px))
    return found


def collisions(root):
    return [
        (one[0], other[0])
        for one, other in itertools.combinations(words(root), 2)
        if one[1] < other[3] and other[1] < one[3] and one[2] < other[4] and other[2] < one[4]
    ]


def drawn(name, **fields):
    made = make(**fields)
    return plan_svg(made, CHAINS[name], Evaluator(made).evaluate(CHAINS[name]))


@pytest.mark.parametrize("requester", ["cam", None, "board"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_plans_figure_is_xml_whose_words_stay_within_and_apart(name, requester):
    root = parsed(drawn(name, requester=requester))
    assert not collisions(root)
    height = float(root.get("height"))
    assert float(root.get("width")) <= 900
    for said, left, top, right, bottom in words(root):
        assert left >= 0, said
        assert right <= WIDTH, said
        assert 0 <= top < bottom <= height, said
    for box in root.iter(f"{NS}rect"):
        assert float(box.get("x", 0)) + float(box.get("width")) <= WIDTH + 0.1
        assert float(box.get("y", 0)) + float(box.get("height")) <= height + 0.1


def test_a_figure_can_be_read_aloud_and_looks_right_in_the_dark():
    text = drawn("two devices")
    root = parsed(text)
    title, description = root.find(f"{NS}title"), root.find(f"{NS}desc")
    assert title.text == "vision <b>&.tflite on cam → board at 2"
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert "Stage 1 on board: operators 2 to 6, 4.03 ms." in description.text
    assert "179.2 kB for 250.9 kB, raw+lz4 over grpc, 18.4 ms." in description.text
    assert "@media (prefers-color-scheme:dark){" in text


def test_a_figure_names_devices_operators_memory_and_times():
    said = [each[0] for each in words(parsed(drawn("two devices")))]
    for expected in (
        "CONV_2D … ?[2J<evil>&\"'",
        "operators 0..2 of 6",
        "8.0 MB of 2.00 GB",
        "12.3 ms",
        "179.2 kB for 250.9 kB, raw+lz4 over grpc",
        "18.4 ms",
        "150.0 kB, stays on cam",
    ):
        assert expected in said


def test_a_chain_that_is_too_long_for_the_title_is_counted_there():
    assert parsed(drawn("six stages")).find(f"{NS}title").text == (
        "vision <b>&.tflite in 6 stages on 3 devices"
    )


def test_bars_are_as_long_as_their_times_and_busy_first():
    made = make()
    evaluation = Evaluator(made).evaluate(CHAINS["two devices"])
    root = parsed(plan_svg(made, CHAINS["two devices"], evaluation))
    hinted: dict[str, list[ET.Element]] = {}
    for box in root.iter(f"{NS}rect"):
        hint = box.find(f"{NS}title")
        if hint is not None and "request 1," in hint.text:
            hinted.setdefault(hint.text, []).append(box)
    move = next(boxes for hint, boxes in hinted.items() if hint.startswith("cam → board: move"))
    # In one chart the paler whole, then the part that occupies the link.
    whole, busy = move[:2]
    span = next(each for each in evaluation.spans if each.where == "cam → board")
    plot = 652
    assert float(whole.get("width")) == pytest.approx(
        span.duration_ms / evaluation.costs.latency_ms * plot, abs=0.1
    )
    assert float(busy.get("width")) / float(whole.get("width")) == pytest.approx(
        span.occupied_ms / span.duration_ms, abs=0.001
    )
    assert whole.get("class") == "move delay"
    assert busy.get("class") == "move"


def test_the_meter_shows_the_memory_of_all_stages_of_a_device():
    made = make()
    placed = CHAINS["replicas"]
    root = parsed(plan_svg(made, placed, Evaluator(made).evaluate(placed)))
    meters = [
        float(box.get("width")) for box in root.iter(f"{NS}rect") if "gate: memory" in "".join(box.itertext())
    ]
    assert meters == [pytest.approx(170 * memory(Evaluator(made), placed)["gate"] / 15e6, abs=0.1)]


def test_an_impossible_plan_has_no_figure():
    made = make(links=())
    with pytest.raises(PlanError, match="cannot run"):
        plan_svg(made, CHAINS["two devices"], Evaluator(made).evaluate(CHAINS["two devices"]))


def test_foreign_text_can_neither_leave_its_element_nor_break_the_file():
    canvas = Canvas()
    canvas.text(0, 10, '</text><script>"x"</script>\x00\x1b\ud800\n')
    canvas.box(0, 0, 1, 1, "panel", hint="<&>")
    root = parsed(canvas.render(20, "<t>", "&d"))
    assert root.find(f"{NS}text").text == '</text><script>"x"</script>��� '
    assert [each.tag for each in root.iter(f"{NS}script")] == []
    assert clean('"') == "&quot;"


def test_words_are_cut_to_their_room():
    assert fitted("short", 100) == "short"
    cut = fitted("a very long name of something", 60)
    assert cut.endswith("…")
    assert text_width(cut) <= 60
    assert text_width("漢字") > text_width("ab")


# --- plots ---------------------------------------------------------------------------------

FRONT = (Point(10, 50, "slow", chosen=True), Point(20, 20, "middle"), Point(60, 5, "fast"))


def dots(root):
    return {each.find(f"{NS}title").text.split(":")[0]: each for each in root.iter(f"{NS}circle")}


def test_a_scatter_marks_the_front_and_the_chosen_point():
    text = scatter_svg((*FRONT, Point(60, 50, "beaten")), "latency in ms", "bottleneck in ms", "Front")
    root = parsed(text)
    kinds = {name: each.get("class").split()[0] for name, each in dots(root).items()}
    assert kinds == {"slow": "hue1", "middle": "hue0", "fast": "hue0", "beaten": "muted"}
    assert "Not beaten in both: slow (10, 50), middle (20, 20), fast (60, 5)." in root.find(f"{NS}desc").text
    stairs = next(each.get("d") for each in root.iter(f"{NS}path") if each.get("class") == "front")
    assert len(re.findall("[ML]", stairs)) == 5
    said = [each[0] for each in words(root)]
    assert {"slow", "middle", "fast", "beaten", "latency in ms", "60"} <= {*said}
    assert not collisions(root)


points = st.builds(Point, st.floats(1, 1e4), st.floats(1, 1e4), st.sampled_from(["a → b at 2", "whole", ""]))


@given(st.lists(points, min_size=1, max_size=30))
def test_labels_of_a_scatter_never_run_into_each_other(some):
    root = parsed(scatter_svg(some, "x in ms", "y in ms", "Many"))
    assert not collisions(root)
    assert len([*root.iter(f"{NS}circle")]) == len(some)


def test_powers_of_ten_are_evenly_apart_on_logarithmic_axes():
    line = Series("growth", ((1, 1), (10, 100), (100, 10_000)))
    text = lines_svg([line], "devices", "time in ms", "Growth", log_x=True, log_y=True)
    root = parsed(text)
    places = [(float(each.get("cx")), float(each.get("cy"))) for each in root.iter(f"{NS}circle")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert "time in ms (logarithmic)" in text


def test_names_of_lines_that_end_together_stand_apart():
    lines = [Series(f"line {n}", ((0, n), (10, 100))) for n in range(8)]
    root = parsed(lines_svg(lines, "x", "y", "Together"))
    assert not collisions(root)
    assert {f"line {n}" for n in range(8)} <= {each[0] for each in words(root)}


@pytest.mark.parametrize(
    ("draw", "error"),
    [
        (lambda: scatter_svg([], "x", "y", "t"), "plot 't': there are no points"),
        (lambda: scatter_svg([Point(math.inf, 1)], "x", "y", "t"), "axis 'x': inf cannot be drawn"),
        (lambda: lines_svg([], "x", "y", "t"), "plot 't': there are no points"),
        (lambda: lines_svg([Series("a", ((0, 1),)), Series("b", ())], "x", "y", "t"), "series 'b'"),
        (
            lambda: lines_svg([Series("a", ((0, 1),))], "x", "y", "t", log_x=True),
            "axis 'x': 0 has no place on a logarithmic axis",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, error):
    with pytest.raises(InputError, match=re.escape(error)):
        draw()


# --- axes ----------------------------------------------------------------------------------


@given(st.floats(1e-3, 1e9), st.integers(2, 12))
def test_marks_from_zero_are_round_few_and_within(end, most):
    marks = ticks(end, most)
    assert 2 <= len(marks) <= most or most == 2
    assert marks[0] == 0
    assert marks[-1] <= end * (1 + 1e-9)


values = st.just(0.0) | st.floats(1e-6, 1e6)


@given(values, values)
def test_plain_axes_cover_their_values_without_being_mostly_empty(one, other):
    low, high = min(one, other), max(one, other)
    marks = covering(low, high, 8)
    assert marks[0] <= low + 1e-9 * high
    assert marks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(marks) <= 10


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_logarithmic_axes_cover_their_values(one, other):
    low, high = min(one, other), max(one, other)
    marks = log_covering(low, high)
    assert len(marks) >= 2
    assert marks[0] <= low * (1 + 1e-9)
    assert marks[-1] >= high * (1 - 1e-9)


def test_marks_read_as_people_write_them():
    assert [mark(each) for each in (0, 0.5, 2.5, 1000, 100_000, 1e6, 1e-4, 2e7)] == [
        *("0", "0.5", "2.5", "1,000", "100,000", "10⁶", "10⁻⁴", "2e7")
    ]
    assert ticks(0, 5) == [0.0]
