"""One step of a recipe, done: a Keras model into another one, or into a ``.tflite``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from collab.errors import ModelError
from collab.toolchain.compress.channels import trace
from collab.toolchain.compress.folding import fold_batch_norms
from collab.toolchain.compress.importance import activation_scores, l1_scores, least, scale_scores
from collab.toolchain.compress.measure import loss
from collab.toolchain.compress.merging import alike
from collab.toolchain.compress.near import Former, nearer
from collab.toolchain.compress.network import Network, build, read
from collab.toolchain.compress.quantising import Quantiser, representative_of
from collab.toolchain.compress.recipe import Step
from collab.toolchain.compress.sensitivity import mix
from collab.toolchain.compress.students import student_of
from collab.toolchain.compress.surgery import take_out
from collab.toolchain.compress.training import Schedule, Taught, activations, check_fits, fit
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.extras import needed
from collab.toolchain.keras_files import load_model, write_keras
from collab.toolchain.steps import run_step
from collab.toolchain.steps.work import Progress

SENSITIVITY_IMAGES: Final = 500


@dataclass(frozen=True)
class Material:
    """What techniques work with."""

    baseline: Path
    """The ``.keras`` file that everything began with; the teacher."""
    taught: Taught
    validating: Taught
    taught_file: Path
    """The same as ``.npz``, for steps in processes of their own."""
    seed: int
    mirror: bool
    progress: Progress
    former: Former | None = None
    """Whose int8 weights stay where they are near enough."""

    def schedule(self, step: Step) -> Schedule:
        """How long and fast a step trains."""
        return Schedule(step.number("epochs"), step.number("rate"), self.seed, self.mirror)


def change(step: Step, before: Path, after: Path, material: Material) -> None:
    """Do a step that gives a Keras model; ``after`` is written whole or not at all.

    Raises:
        CollabError: The model or the data cannot be used for it.
    """
    if step.kind == "tfmot":
        _elsewhere(step, before, after, material)
        return
    model = load_model(before)
    check_fits(model, material.taught)
    teacher = load_model(material.baseline) if step.technique == "distil" else None
    changed = build(_CHANGES[step.technique](step, model, material), model.name)
    fit(
        changed,
        material.taught,
        material.schedule(step),
        lambda done, total: material.progress(step.technique, done, total),
        teacher,
    )
    write_keras(changed, after)


def _elsewhere(step: Step, before: Path, after: Path, material: Material) -> None:
    """The same in a process of its own, where tfmot may turn ``tf.keras`` into Keras 2."""
    folder = after.with_suffix(".step")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(before, folder / "before.keras")
        amount = next((step.number(key) for key in ("share", "values") if key in step.settings), 0.0)
        settings = {
            "technique": step.technique,
            "amount": amount,
            "data": str(material.taught_file.absolute()),
            "schedule": asdict(material.schedule(step)),
        }
        run_step("tfmot", settings, folder, material.progress)
        (folder / "after.keras").replace(after)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _structured(step: Step, model: Any, material: Material) -> Network:
    network = read(model)
    by = step.settings["by"]
    if by == "activation":
        scores = activation_scores(network, activations(model, material.taught))
    else:
        scores = l1_scores(network) if by == "l1" else scale_scores(network)
    channels = trace(network)
    gone = least(channels, scores, step.number("share"))
    if not gone:
        raise ModelError(f"model {model.name}: has no channels that could go; use another recipe")
    return take_out(network, channels, gone)


def _merge(step: Step, model: Any, material: Material) -> Network:
    network = fold_batch_norms(read(model))
    channels = trace(network)
    gone, merged = alike(network, channels, step.number("share"))
    if not gone:
        raise ModelError(
            f"model {model.name}: has no neurons that can be merged: between two layers may be "
            "ReLU, pooling and Flatten only"
        )
    return take_out(network, channels, gone, merged)


def _distil(step: Step, model: Any, material: Material) -> Network:
    width, depth = step.number("width"), step.number("depth")
    if width == 1 and depth == 1:
        return read(model)
    # Fresh weights are drawn when it is built.
    needed("keras").utils.set_random_seed(material.seed)
    return student_of(read(model), width, depth)


_CHANGES: Final[dict[str, Callable[[Step, Any, Material], Network]]] = {
    "structured": _structured,
    "merge": _merge,
    "distil": _distil,
    "finetune": lambda step, model, material: read(model),
}


def convert(model: Path) -> bytes:
    """The float32 ``.tflite`` of a Keras model."""
    return keras_to_litert(load_model(model))


def rounded(step: Step, plain: bytes, material: Material) -> bytes:
    """A float32 ``.tflite``, quantised as a last step says."""
    made = _rounded(step, plain, material)
    return made if material.former is None else nearer(made, plain, material.former)


def _rounded(step: Step, plain: bytes, material: Material) -> bytes:
    if step.technique == "fp16":
        return Quantiser(plain).fp16()
    if step.technique == "dynamic":
        return Quantiser(plain).dynamic()
    images = int(step.settings.get("images", 200))
    quantiser = Quantiser(plain, representative_of(material.taught.inputs, images, material.seed))
    if step.technique != "mixed":
        return quantiser.int8()
    return _mixed(step, plain, quantiser, material)


def _mixed(step: Step, plain: bytes, quantiser: Quantiser, material: Material) -> bytes:
    probe = material.validating.sample(SENSITIVITY_IMAGES, material.seed)
    operators = quantiser.operators()
    asked = 0

    def cost(in_float: frozenset[str]) -> float:
        nonlocal asked
        asked += 1
        material.progress("sensitivity", min(asked, len(operators)), len(operators))
        return loss(quantiser.int8(in_float), probe.inputs, probe.labels)

    found = mix(operators, cost, loss(plain, probe.inputs, probe.labels), step.number("loss"))
    return quantiser.int8(found.in_float)
