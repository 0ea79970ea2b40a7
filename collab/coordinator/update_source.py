"""What a plan is updated to: a packaged model, or a bare ``.tflite``, that fits the one that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.coordinator.planning import whole_model
from collab.coordinator.retarget import check_same_operators
from collab.core.ids import Digest
from collab.core.plan import Plan, ReleaseRef
from collab.errors import IntegrityError, ModelError, PlanError
from collab.graph import Graph, parse_model, with_shapes
from collab.runtime.litert import LiteRT
from collab.updates.bundle.read import Bundle, is_bundle, open_bundle
from collab.updates.release import Release, ReleaseInfo

MOST_EXAMPLES: Final = 32
"""Golden examples that are asked over the nodes."""
_PART: Final = 1 << 20


@dataclass(frozen=True)
class Example:
    """An input and the answer to it, by tensor name."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Offer:
    """A file, and what was signed about it; None where nothing was."""

    path: Path
    release: Release | None = None


@dataclass(frozen=True)
class Update:
    """A new model for a plan."""

    graph: Graph
    examples: tuple[Example, ...]
    runtime_class: str
    """Within which the examples' answers are bit-identical."""
    release: ReleaseRef | None = None
    reference: bytes | None = None
    """What its inputs and answers were like when it was made; None where nobody says."""

    @property
    def digest(self) -> Digest:
        """Of the model."""
        return Digest(self.graph.sha256)


def read_update(offer: Offer, running: Graph, signature: str | None) -> Update:
    """Read an offer; of several models in it the one that has the operators of the running one.  Blocks.

    Raises:
        ModelError: it cannot be read, or has no such model.
        IntegrityError: it is not what was signed, or not what was packaged.
    """
    release = None if offer.release is None else _checked(offer.path, offer.release)
    if not is_bundle(offer.path):
        graph = _graph(_bytes(offer.path), signature)
        _check(offer.path, running, graph)
        return Update(graph, (_own_example(graph),), str(LiteRT().runtime_class()), release)
    bundle = open_bundle(offer.path)
    main = bundle.manifest.model
    others = [v.file for v in bundle.manifest.variants if v.file.file.endswith(".tflite")]
    refused: ModelError | None = None
    for entry in (main, *others):
        try:
            graph = _graph(bundle.read(entry), signature)
            _check(offer.path, running, graph)
        except ModelError as error:
            refused = refused or error
            continue
        golden = bundle.manifest.golden
        # Another variant answers differently in the last digits.
        its_class = golden.runtime_class if golden is not None and entry is main else ""
        return Update(graph, _examples(bundle, graph), its_class, release, bundle.reference())
    assert refused is not None
    raise refused


def check_fits(info: ReleaseInfo, plan: Plan, known: Collection[Digest]) -> None:
    """Make sure that a release is for a plan, or for an earlier version of it; raises `PlanError`."""
    cuts = sorted({stage.ops[0] for stage in plan.stages if stage.ops is not None and stage.ops[0]})
    if info.plan_sha256 and info.plan_sha256 not in known:
        raise PlanError(
            f"release {info.family}:{info.version} is for the plan {info.plan_sha256[:12]}, not for "
            f"{plan.name!r}; publish it without --plan, or with the plan's file"
        )
    if info.cuts and list(info.cuts) != cuts:
        raise PlanError(
            f"release {info.family}:{info.version} is for cuts {list(info.cuts)}, plan {plan.name!r} has "
            f"{cuts}; publish it without --plan, or with the plan's file"
        )


def _checked(path: Path, release: Release) -> ReleaseRef:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; fetch the release again") from error
    if digest.hexdigest() != release.sha256:
        raise IntegrityError(
            f"{path}: is not version {release.version} of {release.custom.family}, as it was signed; "
            "fetch the release again"
        )
    return ReleaseRef(family=release.custom.family, version=release.version, sha256=Digest(release.sha256))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror}; give what `collab model package` wrote, or a .tflite"
        ) from error


def _graph(data: bytes, signature: str | None) -> Graph:
    """A model whose operators the runtime here knows, with the shapes that it gives them."""
    graph = parse_model(data, signature=signature)
    return with_shapes(graph, LiteRT().tensor_shapes(data, graph.main))


def _check(path: Path, running: Graph, graph: Graph) -> None:
    try:
        check_same_operators(running, graph)
    except ModelError as error:
        raise ModelError(f"{path}: does not fit the plan: {error}") from error


def _own_example(graph: Graph) -> Example:
    """A bare model has no examples: the whole of it here says what its stages have to answer to zeros."""
    given = [np.zeros(spec.shape, spec.dtype) for spec in graph.inputs]
    made = whole_model(graph)(given)
    return Example(
        {spec.name: array for spec, array in zip(graph.inputs, given, strict=True)},
        {spec.name: array for spec, array in zip(graph.outputs, made, strict=True)},
    )


def _examples(bundle: Bundle, graph: Graph) -> tuple[Example, ...]:
    """Of a bundle; one of our own where it has none.  Tensors are taken in order: names may differ."""
    found, golden = bundle.golden(), bundle.manifest.golden
    if found is None or golden is None:
        return (_own_example(graph),)
    inputs, outputs = found
    names = [[spec.name for spec in specs] for specs in (graph.inputs, graph.outputs)]
    return tuple(
        Example(
            {name: array[row] for name, array in zip(names[0], inputs.values(), strict=True)},
            {name: array[row] for name, array in zip(names[1], outputs.values(), strict=True)},
        )
        for row in range(min(golden.count, MOST_EXAMPLES))
    )
