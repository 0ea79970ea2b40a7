"""What combines with what in a task, as data; everything else is refused, by the names of two fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import combinations
from types import MappingProxyType
from typing import Final

from collab.errors import ConfigError
from collab.federated.aggregate.settings import Aggregation
from collab.federated.compression.settings import Compression
from collab.federated.gate import GateSettings


class Feature(Enum):
    """Something that a task can ask for; the value is the field that does, as docs and errors write it."""

    BY_SAMPLES = "aggregation.weighting: samples"
    ROBUST = "aggregation.combine: median, trimmed-mean, krum or multi-krum"
    SCAFFOLD = "aggregation.rule: scaffold"
    SERVER_CLIP = "aggregation.clip_norm"
    GATE_NORM = "gate.norm or gate.relative_norm"
    LATE = "round.late.policy: discount"
    ASYNC = "mode: async"
    HIERARCHICAL = "gateways"
    LOSSY_UP = "compression.up.elements: fp16, int8 or int8c"
    TOP = "compression.up.top"
    LOSSY_DOWN = "compression.down.elements: fp16, int8 or int8c"
    CENTRAL_DP = "privacy.place: central"
    LOCAL_DP = "privacy.place: local"
    SECURE = "secure_aggregation"


_UNSEEN = "the server never sees a single update, only their sum"
_COHORT = "masks are agreed on by one cohort for one round"

_F = Feature
REFUSED: Final[Mapping[frozenset[Feature], str]] = MappingProxyType(
    {
        frozenset(pair): reason
        for pair, reason in {
            (_F.SECURE, _F.ROBUST): _UNSEEN,
            (_F.SECURE, _F.SERVER_CLIP): f"{_UNSEEN}; clients clip",
            (_F.SECURE, _F.GATE_NORM): f"{_UNSEEN}; only membership, range and the sum are checked",
            (_F.SECURE, _F.SCAFFOLD): "changes of control variates would travel unmasked",
            (_F.SECURE, _F.LATE): _COHORT,
            (_F.SECURE, _F.ASYNC): _COHORT,
            (_F.SECURE, _F.HIERARCHICAL): f"{_COHORT}, and a gateway would unmask its part of it",
            (_F.SECURE, _F.LOSSY_UP): "masked updates are numbers of a ring, each as wide as the sum",
            (_F.SECURE, _F.TOP): "a mask fills every element",
            (_F.ROBUST, _F.SCAFFOLD): "control variates are averaged, so a bad client would come in by them",
            (_F.ROBUST, _F.LATE): "ranks and distances have no weights",
            (_F.ROBUST, _F.ASYNC): "ranks and distances have no weights, and buffered updates began apart",
            (_F.ROBUST, _F.HIERARCHICAL): "gateways send sums, and a rank or distance needs every update",
            (_F.ROBUST, _F.CENTRAL_DP): "noise is measured for a mean of clipped updates",
            (_F.SCAFFOLD, _F.LATE): "a control variate belongs to the round that it was corrected in",
            (_F.SCAFFOLD, _F.ASYNC): "a control variate belongs to the round that it was corrected in",
            (_F.SCAFFOLD, _F.CENTRAL_DP): "changes of control variates would come out without noise",
            (_F.SCAFFOLD, _F.LOCAL_DP): "changes of control variates would travel without noise",
            (_F.CENTRAL_DP, _F.BY_SAMPLES): "one client's share has to be bounded; use uniform",
            (_F.CENTRAL_DP, _F.LATE): "the account counts one update of a client a round",
            (_F.CENTRAL_DP, _F.ASYNC): "the account counts cohorts that are drawn anew for every round",
            (_F.CENTRAL_DP, _F.LOCAL_DP): "one of them says where noise is added",
            (_F.LOCAL_DP, _F.TOP): "noise fills every element, and the largest would be noise",
            (_F.HIERARCHICAL, _F.ASYNC): "a gateway's sum belongs to one round",
            (_F.HIERARCHICAL, _F.LATE): "a gateway's sum belongs to one round",
            (_F.HIERARCHICAL, _F.SCAFFOLD): "gateways sum updates, and not changes of control variates",
            (_F.HIERARCHICAL, _F.CENTRAL_DP): "each update is clipped before it is added up",
            (_F.LOSSY_DOWN, _F.ASYNC): "clients hold different versions, and a change is of one of them",
        }.items()
    }
)
"""Pairs that a task may not have, and why; all others combine."""


def features(
    aggregation: Aggregation,
    gate: GateSettings,
    up: Compression,
    down: Compression,
    others: Iterable[Feature] = (),
) -> set[Feature]:
    """What these parts of a task ask for, and what its other parts do."""
    asked = {
        Feature.BY_SAMPLES: aggregation.by_samples and not aggregation.robust,
        Feature.ROBUST: aggregation.robust,
        Feature.SCAFFOLD: aggregation.controls,
        Feature.SERVER_CLIP: aggregation.clip_norm is not None,
        Feature.GATE_NORM: gate.norm is not None or gate.relative_norm is not None,
        Feature.LOSSY_UP: up.elements != "raw",
        Feature.TOP: up.top is not None,
        Feature.LOSSY_DOWN: down.lossy,
    }
    return {feature for feature, wanted in asked.items() if wanted}.union(others)


def refusal_of_gateways(asked: Iterable[Feature]) -> str:
    """Why what a task asks for does without gateways; empty where it does not."""
    for feature in Feature:
        reason = REFUSED.get(frozenset((feature, Feature.HIERARCHICAL)))
        if reason is not None and feature in asked:
            return f"{feature.value} does not go with gateways: {reason}"
    return ""


def check_combination(asked: Iterable[Feature]) -> None:
    """Raise `ConfigError` for two features that do not go together, by the fields that ask for them."""
    wanted = set(asked)
    for one, other in combinations(Feature, 2):
        if one in wanted and other in wanted:
            reason = REFUSED.get(frozenset((one, other)))
            if reason is not None:
                raise ConfigError(
                    f"{one.value} does not go with {other.value}: {reason}; leave one of them out"
                )
