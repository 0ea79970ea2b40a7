"""Ensembles, quarantine, quorums and cascades on the 10,000 test images of Fashion-MNIST.

Accuracy is computed in this process by the code that nodes run: `Merge` for combiners, in
the order of the images, and `passes` for a cascade's guard.  Some hundred images go through
real node processes and have to give the same bytes; latencies are of those nodes.

Needs Debian's ``dataset-fashion-mnist``; ``--full`` trains the models anew, which needs the
``toolchain`` extra and takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks import fashion
from benchmarks.fashion_nodes import on_nodes
from benchmarks.fashion_plans import combining, merged, opened
from benchmarks.figures import Figure, run
from benchmarks.quarantines import simulated
from collab.codec.tensors import Array
from collab.coordinator.ensembles import (
    WEIGHTINGS,
    Calibration,
    Examples,
    Hits,
    calibrate,
    drop_bound,
    hits_of,
    scores_of,
    weigh,
)
from collab.coordinator.quarantine import agreements, rule_of
from collab.errors import CollabError
from collab.planner.ensemble import Measure
from collab.runtime.guards import passes
from collab.toolchain.demo_model import Digits

POINTS: Final = 100.0
MOST_DROP: Final = 0.005
MEASURED: Final[Measure] = "margin"
COMBINERS: Final = ("median", "mean", "vote")
QUICK: Final = 2_500
"""Test images through the combiners of a quick run, of 10,000."""


@dataclass(frozen=True)
class Answers:
    """What every model says to every image of one part."""

    given: Examples
    scores: Mapping[str, Array]

    @classmethod
    def of(cls, digits: Digits) -> Answers:
        """All models, one image after another, as LiteRT answers on a node."""
        scaled = digits.scaled()[:, None]
        given = Examples([{"image": image} for image in scaled], digits.labels)
        like = opened(fashion.LARGE)
        return cls(given, {name: scores_of(name, opened(name), like, given) for name in fashion.NAMES})

    def named(self, names: Sequence[str]) -> list[Array]:
        """Of some models, in order."""
        return [self.scores[name] for name in names]

    def hits(self, scores: Array) -> Hits:
        """Which answers are right."""
        return hits_of(scores, self.given.labels[: len(scores)])


def gain(better: Hits, worse: Hits) -> tuple[float, float, float]:
    """Paired difference of accuracy and its 95 % interval, in points (Newcombe 1998)."""
    low, high = -drop_bound(worse, better, 0.975), drop_bound(better, worse, 0.975)
    return POINTS * float(better.mean() - worse.mean()), POINTS * low, POINTS * high


# --- members weighted by validation -----------------------------------------------------


def weighing(validating: Answers, testing: Answers) -> Iterator[Figure]:
    """Three members within two points of each other, and their weighted mean."""
    names = fashion.MEMBERS
    hits = {name: testing.hits(testing.scores[name]) for name in names}
    each = {name: float(hit.mean()) for name, hit in hits.items()}
    best = max(each, key=each.__getitem__)
    spread = POINTS * (max(each.values()) - min(each.values()))
    how = ", ".join(f"{name} {share:.2%}" for name, share in each.items())
    yield Figure("members, best less worst", spread, "points", "<= 2.0", None, how)
    for weighting in WEIGHTINGS:
        weights = weigh(validating.named(names), validating.given.labels, weighting)
        plan = combining(names, "weighted", weights)
        right = testing.hits(merged(plan, testing.named(names))[0])
        more, low, high = gain(right, hits[best])
        how = (
            f"{right.mean():.2%} beside {best}'s {each[best]:.2%}: +{more:.2f} points, 95% interval "
            f"{low:.2f} to {high:.2f}; weights {', '.join(f'{w:.3f}' for w in weights)}"
        )
        name = f"weighted mean ({weighting}) less the best member, least"
        yield Figure(name, low, "points", ">= 0.01", POINTS * each[best], how)


# --- one member that is wrong and sure --------------------------------------------------


def mistaken(validating: Answers, testing: Answers, quick: bool) -> Iterator[Figure]:
    """One member's classes are permuted, as by a bad update, after it was calibrated."""
    turned, count = fashion.MEMBERS[0], QUICK if quick else len(testing.given)
    for honest in (fashion.MEMBERS[1:], (*fashion.MEMBERS[1:], fashion.SMALL)):
        rule = rule_of(agreements(validating.named((*honest, turned))))
        scores = [one[:count] for one in testing.named((*honest, fashion.WRONG))]
        among = f"1 of {len(scores)} wrong"
        for combine in COMBINERS:
            alone = testing.hits(merged(combining(honest, combine), scores[:-1])[0])
            plan = combining((*honest, fashion.WRONG), combine)
            without = testing.hits(merged(plan, scores)[0])
            yield _loss(f"{among}, {combine}", alone, without, "", "")
            plan = combining((*honest, fashion.WRONG), combine, quarantine=rule)
            answers, told = merged(plan, scores)
            out = int((told[:, -1] == -2).argmax())
            others = int((told[:, :-1] == -2).any(axis=-1).sum())
            how = f"; out after {out} requests; honest ones left out of {others}"
            target = "<= 0.3" if combine == "median" else ""
            yield _loss(f"{among}, {combine} and quarantine", alone, testing.hits(answers), target, how)


def _loss(name: str, alone: Hits, right: Hits, target: str, more: str) -> Figure:
    lost = POINTS * float(alone.mean() - right.mean())
    how = f"{right.mean():.2%} beside {alone.mean():.2%} of the honest members alone{more}"
    return Figure(f"{name}: accuracy lost", lost, "points", target, POINTS * float(alone.mean()), how)


def honest(validating: Answers, testing: Answers) -> Figure:
    """How often members that are all honest are left out."""
    names = (*fashion.MEMBERS, fashion.SMALL)
    rule = rule_of(agreements(validating.named(names)))
    _, told = merged(combining(names, "median", quarantine=rule), testing.named(names))
    share = float((told == -2).any(axis=-1).mean())
    how = f"{len(told)} requests in the order of the file; least of 50: {', '.join(map(str, rule.least))}"
    return Figure("4 honest members: requests without one of them", POINTS * share, "%", "<= 1.0", None, how)


# --- a cascade ---------------------------------------------------------------------------


def threshold(validating: Answers) -> Calibration:
    """From the validating images."""
    small, large = validating.scores[fashion.SMALL], validating.scores[fashion.LARGE]
    return calibrate(small, large, validating.given.labels, MEASURED, MOST_DROP)


def cascading(found: Calibration, testing: Answers) -> Iterator[Figure]:
    """The threshold on the test images."""
    _, sure = found.doubt.guards("scores")
    small, large = testing.scores[fashion.SMALL], testing.scores[fashion.LARGE]
    kept = np.array([passes(sure, answer) for answer in small])
    right_small, right_large = testing.hits(small), testing.hits(large)
    right = np.where(kept, right_small, right_large)
    drop, low, high = gain(right_large, right)
    how = (
        f"{right.mean():.2%} beside {right_large.mean():.2%} of the large model, {right_small.mean():.2%} of "
        f"the small one; 95% interval {low:.2f} to {high:.2f}; {MEASURED} {found.doubt.threshold:.4f}"
    )
    yield Figure("cascade: accuracy lost", drop, "points", "<= 0.5", POINTS * float(right_large.mean()), how)
    how = f"{1 - found.escalation_share:.1%} expected from the {found.small.count} validating images"
    yield Figure("cascade: answers by the small model", POINTS * float(kept.mean()), "%", ">= 60", None, how)


async def measure(options: argparse.Namespace) -> list[Figure]:
    if options.full:
        from benchmarks.fashion_training import make

        make()
    _, held_out = fashion.training()
    validating, testing = Answers.of(held_out), Answers.of(fashion.images("t10k"))
    found = threshold(validating)
    members = (*fashion.MEMBERS[1:], fashion.MEMBERS[0])
    rule = rule_of(agreements(validating.named(members)))
    return [
        *weighing(validating, testing),
        *mistaken(validating, testing, options.quick),
        honest(validating, testing),
        *simulated(options.quick),
        *cascading(found, testing),
        *await on_nodes(testing.given, testing.scores, rule, found.doubt, options.quick),
    ]


if __name__ == "__main__":
    try:
        run(measure, __doc__)
    except CollabError as error:
        sys.exit(f"error: {error}")
