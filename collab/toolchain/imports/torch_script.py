"""Converts an exported PyTorch program; run by the Python of an environment that has litert-torch.

    PYTHON -I torch_script.py REQUEST.json

It imports nothing of this package, which that environment does not have.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Nothing is unpickled but plain tensors.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


def convert(settings: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Convert the program and keep its answers to examples in the folder."""
    import litert_torch
    import torch

    path = Path(settings["source"])
    try:
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # torch raises whatever a file makes it raise
        raise ValueError(
            f"{path.name}: is no exported program ({_line(error)}): write it with "
            "torch.export.save(torch.export.export(model.eval(), (example,)), 'm.pt2')"
        ) from error
    shapes = _shapes(torch, program)
    given = _examples(settings, folder, shapes)
    rows = []
    with torch.no_grad():
        for at in range(len(given[0])):
            made = module(*(torch.from_numpy(array[at : at + 1]) for array in given))
            rows.append([one.numpy() for one in (made if isinstance(made, (tuple, list)) else [made])])
    try:
        sample = tuple(torch.from_numpy(array[:1]) for array in given)
        litert_torch.convert(module, sample).export(str(folder / "model.tflite"))
    except Exception as error:  # it raises whatever an operator makes it raise
        raise ValueError(f"{path.name}: litert-torch cannot convert it: {_line(error)}") from error
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    for name, arrays in (("examples.npz", given), ("expected.npz", columns)):
        named: Any = {str(i): array for i, array in enumerate(arrays)}
        np.savez(folder / name, **named)
    return {
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in shapes.items()],
        "outputs": [f"output_{i}" for i in range(len(columns))],
    }


def _shapes(torch: Any, program: Any) -> Mapping[str, tuple[int, ...]]:
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    shapes = {}
    for name in names:
        value = nodes[name].meta["val"]
        if value.dtype != torch.float32:
            raise ValueError(f"input {name!r} is {value.dtype}: only float32 inputs are imported")
        if not all(isinstance(size, int) for size in value.shape) or value.shape[0] != 1:
            raise ValueError(
                f"input {name!r} is {list(value.shape)}: export the model with fixed sizes and a batch of 1"
            )
        shapes[name] = tuple(value.shape)
    return shapes


def _examples(settings: Mapping[str, Any], folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
    count = settings["count"]
    if (folder / "given.npz").exists():
        with np.load(folder / "given.npz", allow_pickle=False) as arrays:
            found: Any = {name: arrays[name][:count] for name in arrays.files}
        if len(shapes) == 1 and len(found) == 1:
            found = dict.fromkeys(shapes, next(iter(found.values())))
        for name, shape in shapes.items():
            if name not in found or found[name].shape[1:] != shape[1:] or found[name].dtype != np.float32:
                raise ValueError(f"--inputs: {name!r} must be there, float32 [N, {shape[1:]}]")
        return [found[name] for name in shapes]
    rng = np.random.default_rng(settings["seed"])
    return [rng.standard_normal((count, *shape[1:]), np.float32) for shape in shapes.values()]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def main(request: Path) -> int:
    """Read the request beside which the result is written."""
    folder = request.parent
    result: dict[str, object]
    try:
        result = {"values": dict(convert(json.loads(request.read_text(encoding="utf-8")), folder))}
    except (ValueError, ImportError) as error:
        result = {"error": _line(error)}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return "error" in result


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
