"""``rounds.jsonl``: one whole line for each round, whatever happens."""

from __future__ import annotations

import json

from collab.federated.evaluating import Evaluating
from collab.federated.record_file import NAME, RecordFile
from collab.federated.records import LeftOut, RoundRecord, Swap
from tests.unit.federated.disks import MemoryDisk


def record(round_, loss=0.5):
    return RoundRecord(round=round_, outcome="made", model="0" * 64, seconds=1.5, loss=loss)


def test_each_line_is_json_with_every_field():
    disk = MemoryDisk()
    RecordFile(disk).write(record(1))
    (line,) = disk.read(NAME).splitlines()
    assert set(json.loads(line)) == set(RoundRecord.__struct_fields__)


def test_a_round_that_is_written_again_is_replaced_with_all_that_follows():
    file = RecordFile(MemoryDisk())
    for number in (1, 2, 3):
        file.write(record(number))
    file.write(record(3, loss=0.1))
    assert [(r.round, r.loss) for r in file.read()] == [(1, 0.5), (2, 0.5), (3, 0.1)]
    file.write(record(2, loss=0.2))
    assert [(r.round, r.loss) for r in file.read()] == [(1, 0.5), (2, 0.2)]


def test_what_came_of_deploying_a_round_is_added_and_a_repeated_record_keeps_it():
    file = RecordFile(MemoryDisk())
    for number in (1, 2):
        file.write(record(number))
    swap = Swap(round=1, swapped=False, reason="worse")
    file.add_swap(swap)
    file.write(record(2))
    assert [r.swap for r in file.read()] == [swap, None], "later rounds stay"
    file.write(record(1))
    assert [r.swap for r in file.read()] == [swap]


def test_half_a_line_is_not_read_and_gone_after_the_next_write():
    disk = MemoryDisk()
    file = RecordFile(disk)
    file.write(record(1))
    line = disk.read(NAME)
    assert line
    for end in range(len(line)):
        disk.write(NAME, line + line[:end])
        assert [r.round for r in file.read()] == [1]
    file.write(record(2))
    assert [r.round for r in file.read()] == [1, 2]


def test_who_was_left_out_and_why_is_in_the_line():
    disk = MemoryDisk()
    out = LeftOut(client="c1", kind="refused", reason="is not finite", field="dense/kernel")
    RecordFile(disk).write(RoundRecord(round=1, outcome="made", model="0" * 64, seconds=1, left_out=(out,)))
    assert RecordFile(disk).read()[0].left_out == (out,)


def test_an_evaluation_is_the_mean_weighted_by_samples_in_any_order():
    answers = [("a", 10, {"accuracy": 0.1, "loss": 2.0}), ("b", 30, {"accuracy": 0.9}), ("c", 5, {})]
    outcomes = []
    for order in (answers, answers[::-1]):
        evaluating = Evaluating(["a", "b", "c", "d"], until=60.0)
        for answer in order:
            evaluating.answered(*answer)
        assert not evaluating.is_over(59.0)
        assert evaluating.is_over(60.0)
        outcomes.append(evaluating.outcome())
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["accuracy"] == (10 * 0.1 + 30 * 0.9) / 40
    assert outcomes[0]["loss"] == 2.0
    assert outcomes[0]["samples"] == 40.0


def test_numbers_that_are_not_finite_and_strangers_do_not_count():
    evaluating = Evaluating(["a"], until=60.0)
    evaluating.answered("stranger", 10, {"accuracy": 1.0})
    evaluating.answered("a", 10, {"accuracy": float("nan"), "loss": float("inf")})
    assert evaluating.is_over(0.0)
    assert evaluating.outcome() == {}
