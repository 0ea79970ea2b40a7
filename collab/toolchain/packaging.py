"""From a model and what belongs to it to a bundle, compared with each other first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from collab.coordinator.planning import open_model, whole_model
from collab.core.preprocessing import Preprocessing, Quantisation
from collab.core.tensor import TensorSpec
from collab.errors import InputError, UsageError
from collab.graph import Graph
from collab.runtime.litert import LiteRT
from collab.runtime.preprocessing.scaling import Floats
from collab.toolchain.data.prepared import Prepared
from collab.toolchain.reference import make_reference
from collab.updates.bundle.answers import label_port
from collab.updates.bundle.inputs import check_input, model_inputs
from collab.updates.bundle.manifest import QUANTISED, About, Port
from collab.updates.bundle.read import Bundle
from collab.updates.bundle.write import Arrays, Parts, write_bundle

GOLDEN: Final = 8
"""Examples whose answers are packaged."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What belongs to a model.

    Attributes:
        data: that the model was trained on; what devices compare their inputs with is taken from it.
        examples: float32 inputs ``[n, …]`` as the preprocessing makes them; their answers are
            packaged for comparison on devices.
        variants: model file and a note by back end.
    """

    preprocessing: Preprocessing | None = None
    labels: Sequence[str] = ()
    card: bytes | None = None
    examples: Floats | None = None
    data: Prepared | None = None
    variants: Mapping[str, tuple[Path, str]] = field(default_factory=dict)


def package(model: Path, belongings: Belongings, about: About, out: Path) -> Bundle:
    """Write a bundle.

    Raises:
        ModelError: the model cannot be read, or what belongs to it does not fit to it.
        InputError: a file cannot be read or written.
    """
    graph = open_model(model)
    inputs, outputs = ports(graph, graph.inputs), ports(graph, graph.outputs)
    if belongings.preprocessing is not None:
        check_input(inputs, belongings.preprocessing)
    if belongings.labels:
        label_port(outputs, len(belongings.labels))
    golden = None
    if belongings.examples is not None:
        if belongings.preprocessing is None:
            raise UsageError("golden examples need the preprocessing that made them")
        golden = (*_golden(graph, inputs, belongings.examples[:GOLDEN]), str(LiteRT().runtime_class()))
    reference = None if belongings.data is None else make_reference(graph, inputs, belongings.data)
    variants = {
        backend: (_read(path), path.name.lower(), note)
        for backend, (path, note) in belongings.variants.items()
    }
    parts = Parts(
        about=about,
        model=bytes(graph.data),
        inputs=inputs,
        outputs=outputs,
        preprocessing=belongings.preprocessing,
        labels=belongings.labels,
        card=belongings.card,
        reference=reference,
        golden=golden,
        variants=variants,
    )
    return write_bundle(out, parts)


def ports(graph: Graph, specs: Sequence[TensorSpec]) -> list[Port]:
    """A model's inputs or outputs with what their integers stand for."""
    scales = graph.scales
    made = []
    for spec in specs:
        scale = scales.get(spec.name) if spec.dtype in QUANTISED else None
        quantisation = None if scale is None else Quantisation(scale=scale[0], zero_point=scale[1])
        made.append(Port(name=spec.name, shape=spec.shape, dtype=spec.dtype, quantisation=quantisation))
    return made


def _golden(graph: Graph, inputs: Sequence[Port], examples: Floats) -> tuple[Arrays, Arrays]:
    run = whole_model(graph)
    given = model_inputs(inputs[0], examples)
    answers = [run([one]) for one in given]
    made = {spec.name: np.stack([answer[i] for answer in answers]) for i, spec in enumerate(graph.outputs)}
    return {inputs[0].name: given}, made


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
