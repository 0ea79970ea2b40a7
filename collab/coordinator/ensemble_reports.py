"""What combiners told beside their answers, over many requests: who took part, agreed, was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array
from collab.core.ids import REQUESTER
from collab.core.plan import Plan, report_specs

STATES: Final = {"took_part": 1, "missing": 0, "not_finite": -1, "quarantined": -2}
"""What a report calls each state of a member, by the number that the tensor ``members`` has for it."""


class Reports:
    """Gathers the reports of one plan's answers; nothing where the plan has none."""

    def __init__(self, plan: Plan) -> None:
        last = next(edge for edge in plan.edges if edge.target == REQUESTER)
        stage = plan.stage(last.source)
        self._names = plan.member_names(stage.id)
        known, own = report_specs(len(self._names)), {spec.name for spec in plan.outputs}
        made = {spec.name: spec for spec in stage.outputs if spec == known.get(spec.name)}
        told = [name for name in last.tensors if name in made and name not in own]
        self._specs = {name: made[name] for name in told if stage.combine is not None}
        self._cascade = stage.combine == "first"
        self._answers = 0
        self._states = {what: np.zeros(len(self._names), np.int64) for what in STATES}
        self._agreed = np.zeros(len(self._names))
        self._sure: list[float] = []

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Count one answer; one without reports of this plan's shapes is left out."""
        for name, spec in self._specs.items():
            if name not in outputs or outputs[name].shape != spec.shape:
                return
        self._answers += 1
        if "members" in self._specs:
            for what, state in STATES.items():
                self._states[what] += outputs["members"] == state
        if "agreement" in self._specs:
            self._agreed += outputs["agreement"].astype(np.float64)
        if "confidence" in self._specs:
            self._sure.append(float(outputs["confidence"]))

    def to_json(self) -> dict[str, Any]:
        """As ``collab run --json`` prints it: ``ensemble`` or ``cascade``, or nothing; shares of answers."""
        if "members" not in self._specs or not self._answers:
            return {}
        shares = {what: (counts / self._answers).tolist() for what, counts in self._states.items()}
        if self._cascade:
            answered = {n: round(s, 4) for n, s in zip(self._names, shares["took_part"], strict=True)}
            return {"cascade": {"answers": self._answers, "answered": answered}}
        members = [
            {"name": name} | {what: round(share[i], 4) for what, share in shares.items()} | self._agreement(i)
            for i, name in enumerate(self._names)
        ]
        found: dict[str, Any] = {"answers": self._answers, "members": members}
        if self._sure:
            low = float(np.percentile(np.array(self._sure), 5))
            mean = sum(self._sure) / len(self._sure)
            found["confidence"] = {"mean": round(mean, 4), "p5": round(low, 4)}
        return {"ensemble": found}

    def _agreement(self, member: int) -> dict[str, float | None]:
        """Of the answers to which the member gave numbers, kept out of them or not."""
        if "agreement" not in self._specs:
            return {}
        came = int(self._states["took_part"][member] + self._states["quarantined"][member])
        return {"agreement": round(float(self._agreed[member]) / came, 4) if came else None}
