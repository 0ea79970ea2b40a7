"""The board: nodes, links, plans and what the log says of them."""

from collab.dashboard.looks import About
from collab.dashboard.state import LOST, MAX_NODES, Board
from tests.unit.dashboard.plans import chain, held, link, look, ran


def lines(board, kind):
    return [line["text"] for line in board.versions.since(0)["log"] if line["kind"] == kind]


def test_a_node_that_does_not_answer_is_lost_and_said_to_be():
    board = Board()
    board.about("a", About(device="Pi 5"))
    board.see(look("a"), 1.0)
    board.lost("a", "no link to it", 2.0)
    board.lost("a", "no link to it", 3.0)
    value = board.versions.get("node:a")
    assert (value["state"], value["device"], value["reason"]) == (LOST, "Pi 5", "no link to it")
    assert lines(board, "node") == ["node a: serving", "node a: serving → lost (no link to it)"]


def test_both_ends_of_a_link_make_one_with_its_rates_there_and_back():
    board = Board()
    for at, sent in ((1.0, 0), (3.0, 1_000_000)):
        board.see(look("b", links=[link("a", received=sent, rtt_ms=3.0)]), at)
        board.see(look("a", links=[link("b", sent=sent, rtt_ms=2.0)]), at)
    board.tick(3.0)
    (value,) = [board.versions.get(key) for key in board.versions.keys("link:")]
    assert (value["a"], value["b"], value["rtt_ms"]) == ("a", "b", 2.0)
    assert (value["mbit_ab"], value["mbit_ba"]) == (4.0, 0.0)


def test_a_link_that_no_end_has_any_more_goes():
    board = Board()
    board.see(look("a", links=[link("b")]), 1.0)
    board.tick(1.0)
    board.see(look("a"), 2.0)
    board.tick(2.0)
    assert not board.versions.keys("link:")


def test_a_plan_shows_what_was_predicted_beside_what_was_measured():
    plan, board = chain("a", "b"), Board()
    board.plan(plan)
    board.predict([plan])
    for at, runs in ((1.0, 10), (2.0, 30)):
        counters = ran(plan, 1, stage_0=(runs * 1500, runs))
        board.see(look("a", links=[link("b", rtt_ms=1.0)], plans=[held(plan, 1)], counters=counters), at)
        counters = ran(plan, 1, stage_1=(runs * 4000, runs))
        board.see(look("b", links=[link("a", rtt_ms=1.0)], plans=[held(plan, 1)], counters=counters), at)
        board.tick(at)
    value = board.versions.get("plan:digits")
    assert [stage["ms"] for stage in value["stages"]] == [1.5, 4.0]
    assert (value["rate"], value["predicted_ms"]) == (20.0, 9.0)
    predicted = {label: (start, ms) for _, label, _, start, ms in value["predicted"]}
    measured = {label: (start, ms) for _, label, _, start, ms in value["measured"]}
    assert predicted["stage-1"] == (2.0, 2.0)
    assert measured["stage-1"] == (2.0, 4.0)
    assert board.versions.since(0)["points"]["rate:digits"][-1] == [2.0, 20.0]


def test_a_plan_that_moves_is_said_to_be_planned_anew():
    old, new, board = chain("a", "b"), chain("a", "c"), Board()
    board.plan(old)
    board.plan(new)
    board.see(look("a", plans=[held(old, 1)]), 1.0)
    board.tick(1.0)
    board.see(look("a", plans=[held(old, 1, "retired"), held(new, 2)]), 2.0)
    board.tick(2.0)
    assert lines(board, "plan") == [
        "plan digits: epoch 1 runs on a, b",
        "plan digits: planned anew, epoch 1 → 2 on a, c",
    ]


def test_an_alternative_that_answers_is_a_failover_and_told_once():
    plan, other, board = chain("a", "b"), chain("c", name="digits.without-b"), Board()
    plans = [held(plan, 1), held(other, 1, primary="digits")]
    board.see(look("c", plans=plans), 1.0)
    board.tick(1.0)
    for at, runs in ((2.0, 3), (3.0, 9)):
        board.see(look("c", plans=plans, counters=ran(other, 1, stage_0=(runs * 100, runs))), at)
        board.tick(at)
    assert lines(board, "failover") == ["plan digits: failover, its alternative digits.without-b answers"]


def test_a_plan_that_nobody_serves_any_more_goes_and_is_said_to():
    plan, board = chain("a"), Board()
    board.see(look("a", plans=[held(plan, 1)]), 1.0)
    board.tick(1.0)
    board.lost("a", "gone", 2.0)
    board.tick(2.0)
    assert board.versions.get("plan:digits") is None
    assert lines(board, "plan")[-1] == "plan digits: no node that answers serves it"


def test_nodes_are_bounded():
    board = Board()
    for i in range(MAX_NODES + 10):
        board.see(look(f"n{i}"), 1.0)
        board.lost(f"x{i}", "gone", 1.0)
    assert len(board.versions.keys("node:")) == MAX_NODES


def test_what_is_the_same_is_not_told_again():
    plan, board = chain("a"), Board()
    board.see(look("a", plans=[held(plan, 1)]), 1.0)
    board.tick(1.0)
    known = board.versions.version
    board.see(look("a", plans=[held(plan, 1)]), 2.0)
    board.tick(2.0)
    assert not board.versions.since(known)["set"]
