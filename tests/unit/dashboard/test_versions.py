"""Values with versions: what changed since, for whoever asks."""

from hypothesis import given
from hypothesis import strategies as st

from collab.dashboard import versions as module
from collab.dashboard.versions import MAX_KEYS, MAX_LOG, MAX_POINTS, MAX_SERIES, Versions


def test_only_what_changed_since_a_version_is_told():
    board = Versions()
    board.put("node:a", 1)
    known = board.since(0)["version"]
    board.put("node:a", 1)
    assert board.version == known
    board.put("node:b", 2)
    assert board.since(known)["set"] == {"node:b": 2}


def test_a_removed_value_is_told_and_one_that_came_back_is_not():
    board = Versions()
    board.put("node:a", 1)
    board.put("node:b", 1)
    known = board.version
    board.drop("node:a")
    board.drop("node:b")
    board.put("node:b", 3)
    news = board.since(known)
    assert (news["gone"], news["set"], news["whole"]) == (["node:a"], {"node:b": 3}, False)


def test_who_was_away_for_too_long_gets_everything(monkeypatch):
    monkeypatch.setattr(module, "_MAX_GONE", 3)
    board = Versions()
    board.put("kept", 1)
    known = board.version
    for i in range(5):
        board.put(f"k{i}", 1)
        board.drop(f"k{i}")
    news = board.since(known)
    assert news["whole"]
    assert news["set"] == {"kept": 1}


def test_a_version_of_another_server_gets_everything():
    board = Versions()
    board.put("a", 1)
    assert board.since(99)["whole"]


def test_points_and_lines_come_once():
    board = Versions()
    board.add("rate:digits", 1.0, 5.0)
    board.log({"text": "one"})
    known = board.version
    board.add("rate:digits", 2.0, 6.0)
    board.log({"text": "two"})
    news = board.since(known)
    assert news["points"] == {"rate:digits": [[2.0, 6.0]]}
    assert [line["text"] for line in news["log"]] == ["two"]


def test_everything_is_bounded_and_what_had_no_room_is_counted():
    board = Versions()
    for i in range(MAX_KEYS + 5):
        board.put(f"k{i}", i)
    for i in range(MAX_SERIES + 2):
        board.add(f"s{i}", 0.0, 1.0)
    for i in range(MAX_POINTS + 3):
        board.add("s0", float(i), 1.0)
    for i in range(MAX_LOG + 4):
        board.log({"text": str(i)})
    news = board.since(0)
    assert (len(news["set"]), len(news["points"]), len(news["log"])) == (MAX_KEYS, MAX_SERIES, MAX_LOG)
    assert len(news["points"]["s0"]) == MAX_POINTS
    assert board.left_out == 7


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3), st.booleans()), max_size=60))
def test_changes_put_together_are_the_whole(steps):
    board, known = Versions(), 0
    copy: dict[str, int] = {}
    for key, value, looks in steps:
        if value is None:
            board.drop(key)
        else:
            board.put(key, value)
        if looks:
            known = follow(board, copy, known)
    follow(board, copy, known)
    assert copy == board.since(0)["set"]


def follow(board, copy, known):
    news = board.since(known)
    if news["whole"]:
        copy.clear()
    copy.update(news["set"])
    for key in news["gone"]:
        copy.pop(key, None)
    return news["version"]
