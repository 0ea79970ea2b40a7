"""Counts of a trial: whatever is repeated, overtaken or told to several nodes, the sum is right."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.ids import PlanName
from collab.core.validate import convert_plan
from collab.updates.health.gate import Bounds
from collab.updates.health.trial import FIGURES, PHASES, Counts, Trial, merge
from collab.updates.health.trial_messages import counts_message, counts_of, trial_message, trial_of
from tests.unit.core.trees import chain

figures = st.fixed_dictionaries({name: st.integers(0, 50) for name in FIGURES})
steps = st.lists(figures, min_size=1, max_size=6)


def history(parts: list[dict[str, int]]) -> list[Counts]:
    """What one requester reports, one after another."""
    reports, so_far = [], Counts(number=3, phase="canary")
    for part in parts:
        so_far = so_far.plus(Counts(number=3, phase="canary", **part))
        reports.append(so_far)
    return reports


@settings(max_examples=40)
@given(st.lists(steps, min_size=1, max_size=4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_reports_that_are_lost_repeated_or_overtaken_add_up_to_the_last_of_each(parts, count, random):
    nodes: list[dict[str, Counts]] = [{} for _ in range(count)]
    last = Counts(number=3, phase="canary")
    for requester, reports in enumerate(map(history, parts)):
        last = last.plus(reports[-1])
        sent = [*reports, *random.choices(reports, k=5)]
        random.shuffle(sent)
        for report in sent:
            node, name = random.choice(nodes), f"r{requester}"
            node[name] = report.latest(node.get(name, report))
    assert merge(3, "canary", nodes) == last
    assert merge(3, "canary", [*nodes, *nodes]) == last
    assert merge(3, "canary", reversed(nodes)) == last


def test_counts_of_another_phase_or_trial_are_left_out():
    others = {
        "a": Counts(number=3, phase="shadow", requests=1),
        "b": Counts(number=2, phase="canary", failed=1),
    }
    assert merge(3, "canary", [others]) == Counts(number=3, phase="canary")


def test_the_difference_to_what_was_known_is_what_came_since():
    before = Counts(number=1, phase="shadow", requests=5, compared=2)
    now = Counts(number=1, phase="shadow", requests=9, compared=2, failed=1, reason="broken")
    assert now.since(before) == Counts(number=1, phase="shadow", requests=4, failed=1, reason="broken")
    assert now.since(Counts(number=1, phase="canary", requests=7)) == now
    assert before.since(now) == Counts(number=1, phase="shadow", reason="broken")


def test_a_trial_ranks_by_number_then_by_phase():
    trials = [Trial(plan=PlanName("p"), number=number, phase=phase) for number in (1, 2) for phase in PHASES]
    assert sorted(trials, key=lambda trial: trial.rank) == trials


@settings(max_examples=40)
@given(figures, st.sampled_from(PHASES), st.text(max_size=20))
def test_counts_and_trials_travel_whole(seen, phase, reason):
    counts = Counts(number=1 << 50, phase=phase, reason=reason, **seen)
    assert counts_of(counts_message(counts)) == counts
    trial = Trial(
        plan=PlanName("p"),
        number=1 << 50,
        phase=phase,
        candidate=convert_plan(chain()),
        bounds=msgspec.structs.replace(Bounds(), copies=0.25),
    )
    assert trial_of(trial_message(trial)) == trial
