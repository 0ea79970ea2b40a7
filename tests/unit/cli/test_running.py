"""What ``collab run`` shows of predictions."""

from __future__ import annotations

from rich.console import Console

from collab.cli.running import describe_calibration

COMPARED = {
    "latency_ms": {"predicted": 10.0, "measured": 12.0, "error": 0.2},
    "bottleneck_ms": {"predicted": 4.0, "measured": None, "error": None},
    "hops": [
        {"stage": "stage-0", "nodes": ["a", "d"], "predicted": 2.0, "measured": 1.5, "error": -0.25},
        {"from": "@requester", "to": "stage-0", "predicted": 1.0, "measured": None, "error": None},
        {"stage": "wire", "estimated": True, "predicted": 4.0, "measured": 4.4, "error": 0.1},
    ],
    "basis": "measured yesterday",
}


def test_predicted_and_measured_stand_side_by_side_for_each_hop_and_in_total():
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(describe_calibration(COMPARED))
    lines = [line[1:-1].split("│") for line in capture.get().splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert ["stage-0", "a + d", "2", "1.5", "-25.0%"] in rows
    assert ["@requester → stage-0", "", "1", "", ""] in rows
    assert ["wire (estimated)", "", "4", "4.4", "+10.0%"] in rows
    assert ["latency (p50)", "", "10", "12", "+20.0%"] in rows
    assert ["time for each answer", "", "4", "", ""] in rows
    assert "measured yesterday" in capture.get()
