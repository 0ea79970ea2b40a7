"""Runs cases, one folder each; what is done already, and has not changed, is read back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from collab.cli.files import write_text
from collab.coordinator.planning import open_model
from collab.core.profile import Profile, to_json
from collab.emulation.folders import read_results, write_results
from collab.emulation.report import report
from collab.emulation.results import Results
from collab.emulation.runner import Emulation, Material
from collab.emulation.scenario import Scenario, convert_scenario
from collab.emulation.simulator import Inputs, prepare, simulate
from simulations.dialling import time_dialling
from simulations.experiment import Case, Done
from simulations.models import keep_profile, kept_profile, measuring, model_file

_CASE: Final = "case.json"
_TRIES: Final = 1
"""Of a case in which the machine was overloaded; the last one counts, and is marked."""


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Runner:
    """Runs cases until it is stopped, by a signal or by its time."""

    out: Path
    again: bool = False
    """Whether also what is done already is run."""
    until_s: float = float("inf")
    """No case begins later on the monotonic clock."""
    stopped: bool = False
    _profiles: dict[str, Profile] = field(default_factory=dict)

    def run(self, folder: Path, cases: Sequence[Case]) -> Iterator[Done]:
        """Every case that is done when it ends."""
        for name in dict.fromkeys(case.model for case in cases if case.kind == "emulated"):
            self._measure(name)
        for number, case in enumerate(cases):
            place = folder / case.name
            digest = self._digest(case)
            found = None if self.again else _read(place, digest, case)
            if found is None and not self.stopped and time.monotonic() < self.until_s:
                say(f"{number + 1}/{len(cases)} {folder.name}: {case.name}")
                found = self._tried(case)
                if found is not None:
                    _write(place, digest, found)
            if found is not None:
                yield found

    def _tried(self, case: Case) -> Done | None:
        """A whole run; None when it was interrupted."""
        done = None
        for _ in range(_TRIES if case.kind == "emulated" else 1):
            results = self._simulate(case) if case.kind == "simulated" else self._emulate(case)
            if results.partial:
                self.stopped = True
                return done
            done = Done(case, results, self._spans(case))
            if not any(done.flagged(run.name) for run in results.plans):
                break
        return done

    def _profile(self, name: str) -> Profile:
        if name not in self._profiles:
            self._profiles[name] = kept_profile(name, self.out / "profiles")
        return self._profiles[name]

    def _digest(self, case: Case) -> str:
        """Of all that a case depends on, this program left out."""
        text = json.dumps([case.kind, case.how, case.tree], sort_keys=True)
        return hashlib.sha256(text.encode() + to_json(self._profile(case.model))).hexdigest()

    def _spans(self, case: Case) -> dict[str, tuple[tuple[int, int], ...]]:
        if case.how != "asking":
            return {}
        _, placed = prepare(convert_scenario(case.tree), Inputs(self._profile(case.model)))
        return {
            one.plan.name: tuple(stage.ops for stage in one.plan.stages if stage.ops is not None)
            for one in placed
        }

    # --- one run -----------------------------------------------------------------------

    def _simulate(self, case: Case) -> Results:
        return simulate(convert_scenario(case.tree), Inputs(self._profile(case.model)))

    def _emulate(self, case: Case) -> Results:
        model = model_file(case.model, self.out / "models")
        material = Material(model, open_model(model), self.out, self._profile(case.model))
        if case.how == "dialling":
            return asyncio.run(_dialled(convert_scenario(case.tree), material))
        return asyncio.run(_emulated(Emulation(convert_scenario(case.tree), material)))

    def _measure(self, name: str) -> None:
        """What a model costs on this machine, unless it was measured already."""
        folder = self.out / "profiles"
        if self.stopped or (folder / f"{name}.json").exists():
            return
        say(f"measuring {name}")
        model = model_file(name, self.out / "models")
        emulation = Emulation(convert_scenario(measuring(name)), Material(model, open_model(model), self.out))
        results = asyncio.run(_emulated(emulation))
        self.stopped = results.partial
        if emulation.measured is not None and not self.stopped:
            keep_profile(name, folder, emulation.measured, results.askings)


async def _dialled(scenario: Scenario, material: Material) -> Results:
    return await time_dialling(scenario, material, _signalled())


async def _emulated(emulation: Emulation) -> Results:
    return await emulation.run(_signalled())


def _signalled() -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


# --- folders --------------------------------------------------------------------------


def _write(place: Path, digest: str, done: Done) -> None:
    write_results(place, done.results)
    write_text(place / "report.html", report(done.results))
    fields = {"digest": digest, "axes": done.case.axes, "spans": done.spans}
    write_text(place / _CASE, json.dumps(fields, indent=1))


def _read(place: Path, digest: str, case: Case) -> Done | None:
    """What was done before, unless the case has changed since."""
    file = place / _CASE
    if not file.exists():
        return None
    fields: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if fields["digest"] != digest:
        return None
    spans = {plan: tuple((start, stop) for start, stop in each) for plan, each in fields["spans"].items()}
    return Done(case, read_results(place), spans)
