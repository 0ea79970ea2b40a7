"""The models under test, inputs for them, and what the whole model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collab.assets import path as asset
from collab.codec.tensors import Array
from collab.coordinator.deploy import Blobs
from collab.coordinator.planning import build_chain
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.graph import Graph, read_model
from collab.planner.chain import Assignment
from collab.runtime.litert import LiteRT

DATA = Path(__file__).parents[1] / "data"
IMAGES = 40

PATHS = {
    "digits": asset("digits.tflite"),
    "digits_int8": DATA / "digits_int8.tflite",
    "digits_dynamic": DATA / "digits_dynamic.tflite",
}


@dataclass(frozen=True)
class Reference:
    """A model with requests for it and the answers that the unsplit model gives."""

    path: Path
    graph: Graph
    requests: list[dict[str, Array]]
    expected: list[dict[str, Array]]

    @classmethod
    def of(cls, name: str) -> Reference:
        """One of `PATHS`, answered by the whole model in this process."""
        with np.load(asset("digits_heldout.npz")) as held_out:
            images = held_out["images"][:IMAGES]
        graph = read_model(PATHS[name])
        (given,), (made,) = graph.inputs, graph.outputs
        if given.dtype == "int8":
            inputs = (images.astype(np.int16) - 128).astype(np.int8)
        else:
            inputs = images.astype(np.float32) / np.float32(255)
        requests = [{given.name: image.reshape(given.shape)} for image in inputs]
        stage = LiteRT().load(PATHS[name])
        expected = [{made.name: stage.run([request[given.name]])[0]} for request in requests]
        stage.close()
        assert len({answer[made.name].tobytes() for answer in expected}) > IMAGES // 2, "answers must differ"
        return cls(PATHS[name], graph, requests, expected)

    def write(self, inputs: Path, outputs: Path) -> None:
        """Requests and their answers as files that ``collab run`` takes."""
        for path, rows in ((inputs, self.requests), (outputs, self.expected)):
            np.savez(path, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})

    def chain(
        self,
        at: Sequence[int],
        assign: Sequence[Sequence[str]],
        endpoints: Mapping[str, str],
        *,
        name: str = "digits",
        **options: object,
    ) -> tuple[Plan, Blobs]:
        """A plan over the nodes given by name and endpoint, and the bytes of its stages."""
        return build_chain(
            PlanName(name),
            self.path,
            self.graph,
            at,
            Assignment(tuple(tuple(map(NodeName, nodes)) for nodes in assign)),
            [NodeRef(name=NodeName(n), endpoints=(e,)) for n, e in endpoints.items()],
            **options,
        )

    def same(self, index: int, answer: Mapping[str, Array]) -> bool:
        """Whether an answer has the bytes of the whole model's."""
        (want,), (got,) = self.expected[index].values(), answer.values()
        return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()

    def save(self, folder: Path, count: int = IMAGES) -> tuple[Path, Path]:
        """Requests and answers as .npz files, stacked."""
        inputs, expected = folder / "x.npz", folder / "y.npz"
        for file, rows in ((inputs, self.requests), (expected, self.expected)):
            np.savez(file, **{name: np.stack([row[name] for row in rows[:count]]) for name in rows[0]})
        return inputs, expected
