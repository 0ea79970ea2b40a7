"""Latencies, refusals and the last requests, from what only grows."""

import pytest

from collab.dashboard.looks import AnswersLook, NodeLook, PlanLook
from collab.dashboard.state import RECENT, Board
from collab.dashboard.traffic import WINDOW_S, Traffic, Windows, request_bars
from collab.telemetry import catalogue
from collab.telemetry.histogram import BOUNDS_US, Histogram
from collab.telemetry.recent import Recent
from tests.unit.dashboard.plans import chain, held, look


def durations(*ms):
    counted = Histogram()
    for one in ms:
        counted.observe(int(one * 1000))
    return counted.counts


def test_quantiles_are_of_what_was_answered_lately_and_not_since_the_start():
    windows = Windows()
    windows.take("a", [("digits", durations(*[900] * 50).buckets)], 0.0)
    windows.take("a", [("digits", durations(*[900] * 50, *[2] * 20).buckets)], 1.0)
    found = {word: ms for _, word, ms in windows.ms(1.0)}
    assert 1.0 < found["p50"] < found["p95"] <= 2.5
    assert list(windows.ms(1.0 + WINDOW_S + 0.1)) == []


def test_what_several_count_is_one_quantile_and_who_starts_again_is_not_negative():
    windows = Windows()
    for node in "ab":
        windows.take(node, [("digits", durations(*[1] * 5).buckets)], 0.0)
    windows.take("a", [("digits", durations(*[1] * 5, *[4] * 9).buckets)], 1.0)
    windows.take("b", [("digits", durations(4).buckets)], 1.0)
    assert {round(ms, 1) for _, _, ms in windows.ms(1.0)} == {3.8, 4.9}


def points(traffic, now_s):
    return dict(traffic.points(now_s))


def test_refusals_are_told_by_cause_once_they_happen():
    traffic = Traffic()
    traffic.see("a", {"no_room": 70}, (), 0.0)
    assert points(traffic, 0.0) == {}
    traffic.see("a", {"no_room": 76}, (AnswersLook("digits", failed=2),), 2.0)
    assert points(traffic, 2.0) == {"refused:nodes: no_room": 3.0, "refused:digits: failed in nodes": 1.0}
    traffic.see("a", {"no_room": 76}, (AnswersLook("digits", failed=2),), 4.0)
    assert points(traffic, 4.0) == {"refused:nodes: no_room": 0.0, "refused:digits: failed in nodes": 0.0}


def test_a_node_that_was_lost_counts_from_where_it_comes_back():
    traffic = Traffic()
    traffic.see("a", {"no_room": 7}, (), 0.0)
    points(traffic, 0.0)
    traffic.forget("a")
    traffic.see("a", {"no_room": 100}, (), 1.0)
    assert points(traffic, 1.0) == {}


def test_a_requester_says_how_long_it_waited_and_why_it_was_refused():
    traffic, failed = Traffic(), catalogue.CLIENT_FAILURES
    traffic.hear("here", [], 0.0)
    points(traffic, 0.0)
    values = [
        catalogue.CLIENT_SECONDS.at("digits", value=durations(20, 20)),
        failed.at("digits", "overloaded", value=4),
    ]
    traffic.hear("here", values, 2.0)
    found = points(traffic, 2.0)
    assert 10 < found["asked_ms:digits p50"] <= 25
    assert found["refused:digits: overloaded"] == 2.0


def request(plan, epoch=1, own=True):
    hops = tuple((index, node, index + 1.0) for index, node in enumerate(plan.placed))
    return Recent(plan.name, epoch, 100.0, 10.0, 0.5, 0.5, 6.0, own, 1, hops)


def test_a_requests_bars_fill_its_time_and_the_network_is_shared_out():
    plan = chain("a", "b")
    bars = request_bars(request(plan), plan)
    assert [(bar.row, bar.label, bar.start_ms, bar.ms) for bar in bars] == [
        ("", "to a", 0.5, 2.0),
        ("a", "stage-0", 2.5, 1.0),
        ("", "to b", 3.5, 2.0),
        ("b", "stage-1", 5.5, 2.0),
        ("", "to the requester", 7.5, 2.0),
    ]


def test_only_requests_of_the_running_epoch_are_shown_and_the_last_of_them():
    plan, board = chain("a", "b"), Board()
    board.plan(plan)
    board.see(look("a", plans=[held(plan, 2)]), 1.0)
    board.tick(1.0)
    given = [request(plan), request(plan, 2, own=False), *[request(plan, 2)] * (RECENT + 1)]
    board.hear("here", [], given, 1.0)
    assert len(board.versions.get("recent:digits")["requests"]) == RECENT
    board.hear("here", [], given[:2], 2.0)
    assert board.versions.get("recent:digits") is None


def test_the_board_draws_nodes_quantiles_beside_the_rest():
    plan, board = chain("a"), Board()
    for at, count in ((1.0, 0), (2.0, 10)):
        answers = (AnswersLook("digits", buckets=durations(*[3] * count).buckets),)
        board.see(
            NodeLook("a", "serving", plans=(PlanLook("digits", 1, plan.digest, "serving"),), answers=answers),
            at,
        )
        board.tick(at)
    series = board.versions.since(0)["points"]
    assert series["nodes_ms:digits p95"][0][1] == pytest.approx(4.87, abs=0.2)
    assert len(BOUNDS_US) + 1 == len(answers[0].buckets)
