"""The gate: every way in which an update can be wrong has a reason and names its field."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import ConfigError, LimitExceeded, ProtocolError
from collab.federated.gate import Gate, GateSettings, Reason, malformed
from collab.federated.update import Update

MODEL = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}
ENROLLED = {"pi": 100, "nano": 50, "tx2": 10, "agx": 10}


def delta(w=1.0, **changes):
    return {"w": np.full((2, 2), w, np.float32), "b": np.ones(1, np.float32)} | changes


def update(client="pi", **changes):
    return Update(**({"round": 3, "client": client, "samples": 5, "delta": delta()} | changes))


def gate(settings=GateSettings(), **more):
    return Gate(settings.check(), MODEL, 3, ENROLLED, **more)


def test_a_good_update_passes_once():
    checked = gate()
    assert checked.judge(update(), "pi") is None
    again = checked.judge(update(), "pi")
    assert (again.reason, again.client) == (Reason.DUPLICATE, "pi")
    assert checked.judge(update("nano"), "nano") is None
    assert len(checked.norms) == 2


BAD = {
    Reason.ROUND: [update(round=2), update(round=4)],
    Reason.SAMPLES: [update(samples=0), update(samples=-5), update(samples=101)],
    Reason.STALE: [update(staleness=-1)],
    Reason.NAMES: [
        update(delta={"w": MODEL["w"]}),
        update(delta=delta(extra=np.ones(1, np.float32))),
        update(control=delta()),
    ],
    Reason.SHAPE: [update(delta=delta(w=1, b=np.ones(2, np.float32)))],
    Reason.DTYPE: [update(delta=delta(b=np.ones(1))), update(delta=delta(b=np.ones(1, ">f4")))],
    Reason.NOT_FINITE: [
        update(delta=delta(np.nan)),
        update(delta=delta(-np.inf)),
        update(metrics={"loss": float("nan")}),
    ],
    Reason.RANGE: [update(delta=delta(1e6))],
}


@pytest.mark.parametrize(
    ("reason", "bad"), [pytest.param(reason, bad, id=reason.value) for reason in BAD for bad in BAD[reason]]
)
def test_what_is_wrong_is_named_and_does_not_count(reason, bad):
    checked = gate()
    refusal = checked.judge(bad, "pi")
    assert refusal.reason is reason
    assert refusal.field
    assert str(refusal).startswith("pi: ")
    assert checked.norms == []
    assert checked.judge(update(), "pi") is None


def test_who_sent_it_is_who_the_link_says():
    refusal = gate().judge(update("nano"), "pi")
    assert (refusal.client, refusal.reason) == ("pi", Reason.IDENTITY)
    assert gate().judge(update("mallory"), "mallory").reason is Reason.NOT_ENROLLED


def test_late_updates_pass_where_they_are_taken_and_once_for_each_round():
    checked = gate(oldest=1)
    assert checked.judge(update(round=1, staleness=2), "pi") is None
    assert checked.judge(update(round=2, staleness=1), "pi") is None
    assert checked.judge(update(round=1, staleness=2), "pi").reason is Reason.DUPLICATE
    assert checked.judge(update(round=0), "pi").reason is Reason.ROUND


def test_control_variates_are_checked_as_updates_are():
    checked = gate(controls=True)
    assert checked.judge(update(), "pi").reason is Reason.NAMES
    assert checked.judge(update(control=delta(np.inf)), "pi").field == "control['w']"
    assert checked.judge(update(control=delta()), "pi") is None


def test_norms_are_bounded_and_compared_with_the_median_so_far():
    assert gate(GateSettings(norm=2.0)).judge(update(), "pi").reason is Reason.NORM
    checked = gate(GateSettings(relative_norm=3.0))
    assert checked.judge(update("agx", delta=delta(50.0)), "agx") is None, "nothing to compare with"
    for client in ("pi", "nano"):
        assert checked.judge(update(client), client) is None
    refusal = checked.judge(update("tx2", delta=delta(10.0)), "tx2")
    assert refusal.reason is Reason.NORM
    assert "median" in refusal.message


def test_norms_of_the_last_round_count_from_the_first_update_on():
    checked = gate(GateSettings(relative_norm=3.0), norms=[1.0, 1.1, 0.9])
    assert checked.judge(update(delta=delta(100.0)), "pi").reason is Reason.NORM
    assert checked.judge(update(delta=delta(0.5)), "pi") is None


def test_what_a_journal_tells_counts_as_taken():
    checked = gate()
    checked.remember("pi", 3, 1.0)
    assert checked.judge(update(), "pi").reason is Reason.DUPLICATE


def test_what_cannot_be_read_has_a_reason_too():
    assert malformed("pi", ProtocolError("cut off")).reason is Reason.MALFORMED
    assert malformed("pi", LimitExceeded("too large")).reason is Reason.RANGE


@pytest.mark.parametrize("name", ["norm", "relative_norm"])
def test_bounds_that_make_no_sense_are_named(name):
    with pytest.raises(ConfigError, match=rf"gate\.{name}"):
        GateSettings(**{name: 0.0}).check()
