"""Raw files as inputs of ``collab run``: the preprocessing of a bundle, and labels for the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from collab.cli.files import read_npz
from collab.cli.output import table
from collab.errors import InputError, LimitExceeded, UsageError

if TYPE_CHECKING:
    from collab.core.plan import Plan
    from collab.updates.bundle.read import Bundle

MAX_RAW_BYTES: Final = 1 << 30
"""Of all inputs of one command."""
MAX_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class RawInputs:
    """What raw files became.

    Attributes:
        names: what each request is of: a file, and the line or samples where there are several in one.
        requests: its tensors.
    """

    bundle: Bundle
    names: Sequence[str]
    requests: Sequence[Mapping[str, Any]]

    def answers(self, outputs: Sequence[Mapping[str, Any] | None], count: int) -> list[dict[str, Any]]:
        """Each input with its best labels, as ``--json`` prints them; None where there was no answer."""
        from collab.updates.bundle.answers import best, label_port

        labels = self.bundle.labels()
        if not labels:
            return []
        port = label_port(self.bundle.manifest.outputs, len(labels))
        told = []
        for name, output in zip(self.names, outputs, strict=True):
            top = None if output is None else best(output[port.name], port, labels, count)
            told.append({"input": name, "top": None if top is None else [one._asdict() for one in top]})
        return told


class Given(NamedTuple):
    """What there is to ask: requests, whether it is one in the model's own shape, and what it was."""

    requests: Sequence[Mapping[str, Any]]
    alone: bool
    raw: RawInputs | None

    def answers(self, outputs: Sequence[Mapping[str, Any] | None], count: int) -> list[dict[str, Any]]:
        """See `RawInputs.answers`; tensors have no labels."""
        return [] if self.raw is None else self.raw.answers(outputs, count)


def read_inputs(inputs: Path, plan: Plan, folder: Path, bundle: Path | None) -> Given:
    """Tensors of an ``.npz``, or raw files; raises what `open_raw` raises, and `TensorError`."""
    from collab.coordinator.workload import requests_of

    if inputs.suffix.lower() != ".npz":
        raw = open_raw(inputs, plan, folder, bundle)
        return Given(raw.requests, False, raw)
    given = read_npz(inputs, "--input")
    requests = requests_of(plan.inputs, given, "--input")
    if not requests:
        raise InputError(f"--input {inputs}: holds no request; its leading axis has length 0")
    return Given(requests, all(given[spec.name].shape == spec.shape for spec in plan.inputs), None)


def open_raw(inputs: Path, plan: Plan, folder: Path, bundle: Path | None) -> RawInputs:
    """Apply the preprocessing of a plan's bundle, or of `bundle`, to a file or folder.

    Raises:
        UsageError: there is no bundle, or it has no preprocessing.
        ModelError: it is of another model than the plan.
        InputError: a file is missing or wrong.
        LimitExceeded: there are too many.
    """
    from collab.runtime.preprocessing.raw import raw_inputs
    from collab.updates.bundle.inputs import check_input, model_inputs

    opened = _bundle(inputs, plan, folder, bundle)
    steps = opened.preprocessing()
    if steps is None:
        raise UsageError(
            f"--input {inputs}: {opened.path} has no preprocessing for raw files; "
            "package it with --data or --preprocessing, or give tensors as .npz"
        )
    check_input(opened.manifest.inputs, steps)
    port = opened.manifest.inputs[0]
    names: list[str] = []
    requests: list[Mapping[str, Any]] = []
    room = MAX_RAW_BYTES
    for name, x in raw_inputs(inputs, steps):
        room -= port.spec.nbytes
        if room < 0:
            raise LimitExceeded(
                f"--input {inputs}: takes over {MAX_RAW_BYTES} bytes; give fewer files at a time"
            )
        names.append(name)
        requests.append({port.name: model_inputs(port, x[None])[0]})
    if not requests:
        raise InputError(f"--input {inputs}: holds no example")
    return RawInputs(opened, names, requests)


def answer_table(answers: Sequence[Mapping[str, Any]]) -> Any:
    """Answers for people."""
    rows = [
        (one["input"], ", ".join(f"{s['label']} {s['score']:.3g}" for s in one["top"] or ()) or "no answer")
        for one in answers[:MAX_SHOWN]
    ]
    title = "answers" if len(answers) <= MAX_SHOWN else f"answers, the first {MAX_SHOWN} of {len(answers)}"
    return table(title, ("input", "best"), rows)


def _bundle(inputs: Path, plan: Plan, folder: Path, given: Path | None) -> Bundle:
    from collab.updates.bundle.inputs import check_plan
    from collab.updates.bundle.read import is_bundle, open_bundle

    if plan.built_in:
        raise UsageError(
            f"--input {inputs}: raw files fit one packaged model; a pipeline takes arrays, as .npz"
        )
    paths = [given] if given is not None else [folder / m.path for m in plan.models if m.path is not None]
    found = next((path for path in paths if given is not None or is_bundle(path)), None)
    if found is None:
        raise UsageError(
            f"--input {inputs}: raw files need the packaged model of the plan: give --bundle M.collab, "
            "or tensors as .npz"
        )
    bundle = open_bundle(found)
    check_plan(bundle, plan)
    return bundle
