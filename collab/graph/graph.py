"""A .tflite model as a graph: what it reads, makes and computes, and where it may be cut."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from collab.core.tensor import TensorSpec
from collab.errors import ModelError
from collab.graph.flat import Bytes, FlatModel, FlatSignature
from collab.graph.flow import Flow, Value, follow
from collab.graph.reader import read_flat
from collab.graph.schema import DTYPES
from collab.graph.shapes import Shape, tensor_shape

MAX_BOUNDARY_ENTRIES: Final = 5_000_000
"""Sum of boundary sizes over all cuts; a model of 10,000 operators has about 100,000."""


@dataclasses.dataclass(frozen=True)
class Operator:
    """A counted (not foldable) operator: `index` k is its number, cut k lies before it."""

    index: int
    name: str
    custom: bool


@dataclasses.dataclass(frozen=True)
class Graph:
    """One subgraph of one model file, ready to be cut.

    Attributes:
        sha256: hex digest of the whole file.
        inputs: what the model reads, in interpreter order.
        outputs: what it answers, in interpreter order.
        operators: the operators that count, in execution order.
        foldable_count: operators on constants alone, which are copied and never count.
        weight_bytes: size of the constants that this subgraph uses.
        signatures: keys of all signatures of the file.
        signature: the key of the one that belongs to this subgraph, if any.
        data: the file.
        flat: the file taken apart.
        main: index of the subgraph.
        flow: the analysis of the subgraph.
    """

    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[Operator, ...]
    foldable_count: int
    weight_bytes: int
    signatures: tuple[str, ...]
    signature: str | None
    data: Bytes = dataclasses.field(repr=False, compare=False)
    flat: FlatModel = dataclasses.field(repr=False, compare=False)
    main: int
    flow: Flow = dataclasses.field(repr=False, compare=False)

    @property
    def op_count(self) -> int:
        """How many operators count."""
        return len(self.operators)

    @property
    def quantised(self) -> frozenset[str]:
        """Names of inputs whose integers stand for real numbers."""
        return frozenset(spec.name for spec in self.inputs if spec.name in self.scales)

    @functools.cached_property
    def scales(self) -> Mapping[str, tuple[float, int]]:
        """Scale and zero point of quantised inputs and outputs, by name."""
        subgraph = self.flat.subgraphs[self.main]
        found = {}
        for index in (*subgraph.inputs, *subgraph.outputs):
            given = subgraph.tensors[index].quantization
            if given is not None and given.scale is not None and len(given.scale):
                zeros = given.zeroPoint
                zero = int(zeros[0]) if zeros is not None and len(zeros) else 0
                found[self.flow.names[index]] = (float(given.scale[0]), zero)
        return found

    @functools.cached_property
    def boundaries(self) -> tuple[tuple[Value, ...], ...]:
        """What is live at 0, 1, ... n.

        Raises:
            ModelError: there are absurdly many tensors.
        """
        found: list[tuple[Value, ...]] = []
        room = MAX_BOUNDARY_ENTRIES
        for live in self.flow.live():
            room -= len(live)
            if room < 0:
                raise ModelError(
                    f"the boundaries hold over {MAX_BOUNDARY_ENTRIES} tensors in all: the file is corrupt"
                )
            found.append(live)
        return tuple(found)


def read_model(path: str | Path, *, signature: str | None = None) -> Graph:
    """Read a .tflite file.

    Args:
        path: the file.
        signature: key of the signature whose subgraph is meant; subgraph 0 without it.

    Raises:
        ModelError: the file is missing, empty, truncated or not a .tflite file, or it has
            no such signature; the message starts with the path.
        BackendError: ai-edge-litert is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file: give the path of a .tflite file") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path}: this is a directory: give the path of a .tflite file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{path}: cannot be read ({reason})") from error
    try:
        return parse_model(data, signature=signature)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def parse_model(data: bytes | memoryview, *, signature: str | None = None) -> Graph:
    """Analyse the bytes of a .tflite file; like `read_model` otherwise."""
    flat = read_flat(data)
    return _graph(flat, hashlib.sha256(data).hexdigest(), *_choose(flat, signature), {})


def with_shapes(graph: Graph, shapes: Sequence[Sequence[int]]) -> Graph:
    """Return the graph with the shapes that an interpreter really allocated.

    Files of models with open dimensions carry 1 in their place, which need not be what the
    interpreter computes; cuts through such tensors are refused until their shape is known.

    Args:
        graph: the graph.
        shapes: one shape for each tensor of the subgraph, in the order of the file
            (``get_tensor_details()`` after ``allocate_tensors()``).

    Raises:
        ModelError: `shapes` are fewer than the subgraph's tensors.
    """
    count = len(graph.flat.subgraphs[graph.main].tensors)
    if len(shapes) < count:
        raise ModelError(f"{len(shapes)} shapes given for {count} tensors: give one for each")
    known = {i: tuple(int(d) for d in shape) for i, shape in enumerate(shapes[:count])}
    return _graph(graph.flat, graph.sha256, graph.main, graph.signature, known)


def custom_operators(graph: Graph) -> tuple[str, ...]:
    """Names of the custom operators of the whole file; whether they run is the runtime's word."""
    return tuple(sorted({op.name for s in graph.flat.subgraphs for op in s.operators if op.custom}))


def _graph(
    flat: FlatModel, sha256: str, main: int, signature: str | None, shapes: Mapping[int, Shape]
) -> Graph:
    flow = follow(flat, main, shapes)
    subgraph = flat.subgraphs[main]

    def spec(tensor: int) -> TensorSpec:
        if tensor in flow.values:
            return flow.values[tensor].spec
        table = subgraph.tensors[tensor]
        return TensorSpec(flow.names[tensor], tensor_shape(table), DTYPES.get(table.type, "unknown"))

    return Graph(
        sha256=sha256,
        inputs=tuple(spec(t) for t in subgraph.inputs),
        outputs=tuple(spec(t) for t in subgraph.outputs),
        operators=tuple(
            Operator(k, subgraph.operators[p].name, subgraph.operators[p].custom)
            for k, p in enumerate(flow.counted)
        ),
        foldable_count=len(flow.folded),
        weight_bytes=_weight_bytes(flat, main),
        signatures=tuple(s.key for s in flat.signatures),
        signature=signature,
        data=flat.data,
        flat=flat,
        main=main,
        flow=flow,
    )


def _choose(flat: FlatModel, signature: str | None) -> tuple[int, str | None]:
    """Subgraph and signature that are meant."""
    if signature is None:
        first: FlatSignature | None = next((s for s in flat.signatures if s.subgraph == 0), None)
        return 0, first.key if first else None
    for found in flat.signatures:
        if found.key == signature:
            return found.subgraph, found.key
    known = ", ".join(repr(s.key) for s in flat.signatures) or "none"
    raise ModelError(f"the model has no signature {signature!r}: it has {known}")


def _weight_bytes(flat: FlatModel, main: int) -> int:
    """Bytes of the distinct constants of a subgraph and all that it calls."""
    spans = set()
    for index in called_subgraphs(flat, main):
        subgraph = flat.subgraphs[index]
        used = {t for op in subgraph.operators for t in op.inputs if t >= 0} | set(subgraph.outputs)
        spans |= {flat.buffers[subgraph.tensors[t].buffer] for t in used}
    return sum(span[1] for span in spans if span)


def called_subgraphs(flat: FlatModel, main: int) -> tuple[int, ...]:
    """A subgraph and all that it calls, in the order in which they are met."""
    order = [main]
    seen = {main}
    for index in order:  # grows while it runs
        for operator in flat.subgraphs[index].operators:
            for called in operator.subgraphs:
                if called not in seen:
                    seen.add(called)
                    order.append(called)
    return tuple(order)
