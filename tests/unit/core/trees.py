"""Plans as parsed YAML, for tests that change them."""

from __future__ import annotations

from typing import Any

SHA = "0123456789abcdef" * 4


def spec(name: str, shape: list[int] | None = None, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "shape": [1, 4] if shape is None else shape, "dtype": dtype}


def stage(name: str, node: str, ops: list[int], inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "nodes": [node],
        "ops": ops,
        "sha256": SHA,
        "inputs": [spec(t) for t in inputs],
        "outputs": [spec(t) for t in outputs],
    }


def edge(source: str, target: str, *tensors: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, "tensors": list(tensors), **more}


def chain() -> dict[str, Any]:
    """Two stages on two nodes."""
    return {
        "name": "net",
        "models": [{"sha256": SHA, "ops": 5}],
        "inputs": [spec("x")],
        "outputs": [spec("y")],
        "stages": [stage("head", "a", [0, 2], ["x"], ["h"]), stage("tail", "b", [2, 5], ["h"], ["y"])],
        "edges": [
            edge("@requester", "head", "x"),
            edge("head", "tail", "h"),
            edge("tail", "@requester", "y"),
        ],
        "nodes": [{"name": "a", "endpoints": ["grpc://127.0.0.1:1"]}, {"name": "b"}],
    }


def cascade() -> dict[str, Any]:
    """A small model, a large one that is asked when the small one is unsure, and a combiner."""
    unsure = {"tensor": "p", "measure": "margin", "when": "below", "threshold": 0.5}
    return {
        "name": "cascade",
        "models": [{"id": "small", "sha256": SHA, "ops": 1}, {"id": "large", "sha256": SHA, "ops": 1}],
        "inputs": [spec("x")],
        "outputs": [spec("p")],
        "stages": [
            {**stage("s", "a", [0, 1], ["x"], ["p"]), "model": "small"},
            {**stage("l", "b", [0, 1], ["x"], ["p"]), "model": "large"},
            {
                "id": "merge",
                "nodes": ["a", "b"],
                "combine": "first",
                "inputs": [],
                "outputs": [spec("p")],
                "fires": {"rule": "quorum", "k": 1, "wait_ms": 5},
            },
        ],
        "edges": [
            edge("@requester", "s", "x"),
            edge("s", "l", "x", guard=unsure),
            edge("s", "merge", "p", guard={**unsure, "when": "at_least"}),
            edge("l", "merge", "p", via=["a"]),
            edge("merge", "@requester", "p"),
        ],
        "nodes": [{"name": "a"}, {"name": "b"}],
    }
