"""Running plans behind the Open Inference Protocol, over real nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess
from tests.integration.serving import ServeProcess, bring_up, plan_file

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def serving(trio: list[NodeProcess], digits: Reference, folder: Path) -> Iterator[ServeProcess]:
    """A server of a plan with alternatives over a, b and c."""
    plan, blobs = with_alternatives(digits, endpoints(trio))
    asyncio.run(bring_up(plan, blobs))
    with ServeProcess(folder, [plan_file(folder, plan)]) as server:
        yield server


def as_json(reference: Reference, *rows: int) -> dict[str, Any]:
    """Requests of a reference as one body, along the model's own leading axis."""
    (spec,) = reference.graph.inputs
    array = np.concatenate([reference.requests[row][spec.name] for row in rows])
    tensor = {
        "name": spec.name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    return {"id": "7", "inputs": [tensor]}


def answered(reference: Reference, body: dict[str, Any], *rows: int) -> bool:
    """Whether a body holds the whole model's answers, bit by bit."""
    (spec,) = reference.graph.outputs
    (output,) = body["outputs"]
    array = np.array(output["data"], np.float32).reshape(output["shape"])
    expected = np.concatenate([reference.expected[row][spec.name] for row in rows])
    return (
        output["name"] == spec.name
        and array.tobytes() == expected.tobytes()
        and array.shape == expected.shape
    )


def test_answers_are_those_of_the_whole_model(serving: ServeProcess, digits: Reference):
    with httpx.Client(base_url=serving.rest) as client:
        assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
        for rows in ((0,), (1, 2, 3)):
            response = client.post(INFER, json=as_json(digits, *rows))
            assert response.status_code == 200, response.text
            body = response.json()
            assert answered(digits, body, *rows)
            assert body["id"] == "7"
            assert body["parameters"] == {"path": "primary", "epoch": 1, "nodes": "a,b,c"}
