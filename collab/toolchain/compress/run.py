"""Recipes carried out in a folder that keeps every step, so that a stopped search goes on.

    steps/KEY.keras        the model behind the first steps of a recipe
    variants/KEY.tflite    what a recipe gave, and KEY.json what was measured of it
    data.npz               what is trained on

A key is a digest of baseline, data, seed and the steps so far: recipes that begin alike share
their beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import CollabError, InputError, IntegrityError, ModelError
from collab.graph import parse_model
from collab.toolchain.compress.frontier import Measured, Paired, Targets, paired
from collab.toolchain.compress.measure import arena_bytes, exact_cuts, right, times_ms, zstd_bytes
from collab.toolchain.compress.near import Former
from collab.toolchain.compress.recipe import Recipe
from collab.toolchain.compress.search import Halving, Trial
from collab.toolchain.compress.techniques import Material, change, convert, rounded
from collab.toolchain.compress.training import Taught
from collab.toolchain.keras_files import write_durably

VERSION: Final = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """A folder, the baseline in it, and what everything is measured on."""

    folder: Path
    material: Material
    testing: Taught
    digest: str
    """Of baseline, data, seed."""
    check_cuts: bool = True

    @property
    def baseline(self) -> bytes:
        """The float32 ``.tflite`` of the model that everything began with."""
        return self.made(Recipe(()))

    def made(self, recipe: Recipe) -> bytes:
        """The ``.tflite`` that a recipe gives; made now if it is not there.

        Raises:
            CollabError: A step cannot be done.
        """
        path = self.folder / "variants" / f"{self._key(recipe, len(recipe.steps))}.tflite"
        if path.is_file():
            return path.read_bytes()
        last = recipe.steps[-1] if recipe.steps else None
        if last is not None and last.kind == "litert":
            # The float model before it serves every way of rounding.
            data = rounded(last, self.made(Recipe(recipe.steps[:-1])), self.material)
        else:
            data = convert(self._trained(recipe))
            if last is not None and last.technique == "qat":
                data = rounded(last, data, self.material)
        write_durably(path, data)
        return data

    def _trained(self, recipe: Recipe) -> Path:
        """The Keras model behind all steps of a recipe; those that are there are not done again."""
        model = self.material.baseline
        for at, step in enumerate(recipe.steps, 1):
            after = self.folder / "steps" / f"{self._key(recipe, at)}.keras"
            after.parent.mkdir(parents=True, exist_ok=True)
            if not after.is_file():
                change(step, model, after, self.material)
            model = after
        return model

    def measured(self, recipe: Recipe, label: str) -> Measured:
        """What a recipe is worth, kept in the folder; made and measured now if it is not there."""
        path = self.folder / "variants" / f"{self._key(recipe, len(recipe.steps))}.json"
        if path.is_file():
            return replace(_read_measured(path), recipe=label)
        data = self.made(recipe)
        baseline = self.baseline
        tests = self.testing
        correct = right(data, tests.inputs, tests.labels)
        ours, theirs = times_ms([data, baseline], tests.inputs[:1])
        report = exact_cuts(data, tests.inputs) if self.check_cuts else None
        found = Measured(
            recipe=label,
            accuracy=float(correct.mean()),
            difference=paired(correct, self._baseline_right(baseline)),
            bytes=len(data),
            zstd_bytes=zstd_bytes(data),
            latency_ms=ours,
            latency_ratio=ours / theirs,
            arena_bytes=arena_bytes(data),
            parameters=_parameters(data),
            cuts=(0, 0) if report is None else (report.tried, report.exact),
        )
        write_durably(path, json.dumps(asdict(found)).encode())
        return found

    def _baseline_right(self, baseline: bytes) -> NDArray[np.bool_]:
        path = self.folder / "variants" / "baseline-right.npy"
        if path.is_file():
            kept: NDArray[np.bool_] = np.load(path, allow_pickle=False)
            if len(kept) == len(self.testing):
                return kept
        found = right(baseline, self.testing.inputs, self.testing.labels)
        part = path.with_name(f".{path.name}")
        np.save(part, found, allow_pickle=False)
        part.replace(path)
        return found

    def _key(self, recipe: Recipe, steps: int) -> str:
        said = f"{self.digest} {Recipe(recipe.steps[:steps])} {_exactly(recipe, steps)}"
        return hashlib.sha256(said.encode()).hexdigest()[:20]


def _exactly(recipe: Recipe, steps: int) -> str:
    return json.dumps(
        [[step.technique, dict(step.settings)] for step in recipe.steps[:steps]], sort_keys=True
    )


def _parameters(data: bytes) -> int:
    graph = parse_model(data)
    subgraph = graph.flat.subgraphs[graph.main]
    constants = {
        index
        for index, tensor in enumerate(subgraph.tensors)
        if graph.flat.buffers[tensor.buffer] is not None
    }
    return sum(int(np.prod(subgraph.tensors[index].shape)) for index in constants)


def _read_measured(path: Path) -> Measured:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Measured(
            **{**found, "difference": Paired(**found["difference"]), "cuts": tuple(found["cuts"])}
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path}: is not what was measured; remove it to measure anew") from error


def open_bench(
    folder: Path,
    model: Path,
    splits: Mapping[str, Taught],
    seed: int,
    mirror: bool,
    progress: Any,
    cuts: bool,
    former: Former | None = None,
) -> Bench:
    """A bench in a folder, which is made, or gone on with where it is of the same model and data.

    Raises:
        ModelError: The model is missing.
        InputError: The folder is of another model or other data.
    """
    try:
        raw = model.read_bytes()
    except OSError as error:
        raise ModelError(f"{model}: {error.strerror}: save the model as .keras") from error
    digest = hashlib.sha256(raw)
    for name in sorted(splits):
        digest.update(f"{name} {splits[name].inputs.shape}".encode())
        digest.update(np.ascontiguousarray(splits[name].inputs).data)
        digest.update(np.ascontiguousarray(splits[name].labels).data)
    digest.update(f"{VERSION} {seed} {mirror}".encode())
    if former is not None:
        digest.update(f"near {former.steps}".encode())
        digest.update(former.model)
    key = digest.hexdigest()
    try:
        (folder / "variants").mkdir(parents=True, exist_ok=True)
        marker = folder / "bench.json"
        if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")).get("digest") != key:
            raise InputError(f"--out {folder}: is of another model, data or seed; give another folder")
        write_durably(marker, json.dumps({"digest": key}).encode())
        write_durably(folder / "baseline.keras", raw)
        data = folder / "data.npz"
        if not data.is_file():
            part = folder / ".data.part.npz"
            np.savez(part, inputs=splits["train"].inputs, labels=splits["train"].labels)
            part.replace(data)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no folder of a search"
        raise InputError(f"--out {folder}: {reason}") from error
    material = Material(
        folder / "baseline.keras", splits["train"], splits["validation"], data, seed, mirror, progress, former
    )
    return Bench(folder, material, splits["test"], key, cuts)


@dataclass(frozen=True)
class Outcome:
    """What a search found: variants measured on the test images, and the one that was chosen before."""

    variants: tuple[Measured, ...]
    chosen: str
    model: bytes
    """The chosen one's ``.tflite``."""

    @property
    def best(self) -> Measured:
        """What the chosen one is worth."""
        return next(each for each in self.variants if each.recipe == self.chosen)


def search(
    bench: Bench, recipes: Sequence[Recipe], targets: Targets, efforts: Sequence[float], say: Say
) -> Outcome:
    """Try recipes by successive halving; what was measured with full training, baseline included.

    Everything is judged on the validation images, so that the test images choose nothing.  A
    recipe that cannot be used on this model is said and left out.

    Raises:
        ModelError: None of them can be used.
    """
    judge = replace(
        bench, testing=bench.material.validating, folder=bench.folder / "judging", check_cuts=False
    )
    halving = Halving(recipes, targets, efforts)
    baseline = Trial(Recipe(()), 1.0)
    finished = {baseline.recipe: _judged(bench, judge, baseline)}
    while not halving.done:
        results: dict[str, Measured] = {}
        trials = halving.trials()
        for at, trial in enumerate(trials, 1):
            label = str(trial.recipe)
            where = f"{at} of {len(trials)} of round {halving.rung + 1}"
            say(f"{label}, {trial.effort:.0%} of the training ({where})")
            try:
                results[label] = _judged(bench, judge, trial)
            except CollabError as error:
                say(f"{label}: left out: {error}")
        if not results and len(finished) == 1:
            raise ModelError("no recipe can be used on this model; see the reasons above")
        finished |= {
            trial.recipe: results[str(trial.recipe)]
            for trial in trials
            if trial.effort == 1.0 and str(trial.recipe) in results
        }
        halving.tell(results)
    best = best_of(list(finished.values()), targets)
    chosen = next(recipe for recipe, found in finished.items() if found is best)
    return Outcome(
        tuple(bench.measured(recipe, str(recipe)) for recipe in finished), str(chosen), bench.made(chosen)
    )


def _judged(bench: Bench, judge: Bench, trial: Trial) -> Measured:
    recipe = trial.recipe if trial.effort == 1.0 else trial.recipe.at_effort(trial.effort)
    for each in (Recipe(()), recipe):
        key = f"{bench._key(each, len(each.steps))}.tflite"
        write_durably(judge.folder / "variants" / key, bench.made(each))
    return judge.measured(recipe, str(trial.recipe))


def best_of(variants: Sequence[Measured], targets: Targets) -> Measured:
    """The best variant: one that keeps to all targets, else the one that is least off."""
    return min(variants, key=lambda each: (*targets.cost(each), each.recipe))
