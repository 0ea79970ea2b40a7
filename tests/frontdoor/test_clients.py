"""Clients of model servers ask `collab serve` as they are, and get the whole model's answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.models import Reference
from tests.integration.processes import ROOT, environment
from tests.integration.serving import ServeProcess

pytestmark = pytest.mark.heavy("frontdoor")

PYTHON = ROOT / "build/clients/bin/python"
ROWS = 8
MODELS = ("digits", "twins")
"""A chain, and an ensemble of it: the mean of the same answers is that answer."""


@pytest.mark.parametrize(
    "client",
    ["triton-http", "triton-http-binary", "triton-grpc", "triton-stream", "kserve-rest", "kserve-grpc"],
)
def test_a_foreign_client_gets_the_whole_models_answers(
    client: str, door: ServeProcess, digits: Reference, tmp_path: Path
):
    assert PYTHON.exists(), "run: scripts/setup frontdoor"
    (given,), (made,) = digits.graph.inputs, digits.graph.outputs
    inputs = tmp_path / "in.npz"
    rows = np.stack([request[given.name] for request in digits.requests[:ROWS]])
    np.savez(inputs, **{given.name: rows})
    address = door.rest if "http" in client or "rest" in client else door.grpc
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("foreign.py"), client, address, inputs, tmp_path, *MODELS],
        capture_output=True,
        text=True,
        timeout=50,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = np.stack([answer[made.name] for answer in digits.expected[:ROWS]])
    told: dict[str, Any] = json.loads(done.stdout)
    for model in MODELS:
        with np.load(tmp_path / f"{model}.npz") as arrays:
            answers = arrays[made.name]
        assert answers.dtype == expected.dtype
        assert answers.tobytes() == expected.tobytes(), model
        if told[model]:
            assert told[model]["server"]["name"] == "collab"
            assert told[model]["model"]["name"] == model
            config = told[model]["config"].get("config", told[model]["config"])
            assert (config["name"], config["max_batch_size"]) == (model, 256)
            (statistics,) = told[model]["statistics"]["model_stats"]
            assert (statistics["name"], statistics["version"]) == (model, told[model]["model"]["versions"][0])
    if client == "triton-stream":
        assert "'nobody' is not served here" in told["digits"]["error"]


def curl(*arguments: object) -> tuple[int, bytes]:
    """Status and body of one request."""
    program = shutil.which("curl")
    assert program is not None, "install curl"
    done = subprocess.run(
        [program, "-sS", "-w", "\n%{http_code}", *map(str, arguments)],
        capture_output=True,
        timeout=30,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


@pytest.mark.parametrize("model", MODELS)
def test_curl_asks_in_json(model: str, door: ServeProcess, digits: Reference, tmp_path: Path):
    (given,), (made,) = digits.graph.inputs, digits.graph.outputs
    request = {
        "inputs": [
            {
                "name": given.name,
                "shape": [2, *given.shape[1:]],
                "datatype": "FP32",
                "data": np.concatenate([r[given.name] for r in digits.requests[:2]]).tolist(),
            }
        ]
    }
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request), "utf-8")
    status, body = curl(
        "-H", "Content-Type: application/json", "-d", f"@{file}", f"{door.rest}/v2/models/{model}/infer"
    )
    assert status == 200, body
    (output,) = json.loads(body)["outputs"]
    expected = np.concatenate([answer[made.name] for answer in digits.expected[:2]])
    assert np.array(output["data"], np.float32).tobytes() == expected.tobytes()


def test_curl_reads_health_and_cannot_leave_the_paths(door: ServeProcess):
    assert curl(f"{door.rest}/v2/health/live")[0] == 200
    assert curl("--path-as-is", f"{door.rest}/v2/models/../../etc/passwd")[0] == 404
