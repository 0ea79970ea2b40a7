"""Other people's clients, as a program of the environment `build/clients`.

    foreign.py CLIENT ADDRESS INPUTS.npz FOLDER MODEL ...

asks each model once for each row of the inputs' leading axis and writes the answers to
FOLDER/MODEL.npz; on standard output it says what else the client was told.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def main() -> None:
    client, address, inputs, folder, *models = sys.argv[1:]
    with np.load(inputs) as arrays:
        count = len(next(iter(arrays.values())))
        rows = [{name: arrays[name][i] for name in arrays.files} for i in range(count)]
    heard = {}
    for model in models:
        answers, heard[model] = CLIENTS[client](address, model, rows)
        outputs = {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
        np.savez(f"{folder}/{model}.npz", **outputs)
    sys.stdout.write(json.dumps(heard))


def _triton(module: Any, row: dict[str, Any], **binary: bool) -> list[Any]:
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, array in row.items():
        given = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        given.set_data_from_numpy(array, **binary)
        inputs.append(given)
    return inputs


def _triton_told(client: Any, model: str, **as_json: bool) -> dict[str, Any]:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    return {
        "server": client.get_server_metadata(**as_json),
        "model": client.get_model_metadata(model, **as_json),
        "index": client.get_model_repository_index(**as_json),
        "config": client.get_model_config(model, **as_json),
        "statistics": client.get_inference_statistics(model, **as_json),
    }


def triton_http(address: str, model: str, rows: Rows, binary: bool = False) -> tuple[Rows, dict[str, Any]]:
    import tritonclient.http as module

    client = module.InferenceServerClient(address.removeprefix("http://"))
    told = _triton_told(client, model)
    names = [tensor["name"] for tensor in told["model"]["outputs"]]
    answers = []
    for row in rows:
        outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = client.infer(
            model,
            _triton(module, row, binary_data=binary),
            outputs=outputs,
            request_id="1",
            timeout=20_000_000,
        )
        assert result.get_response()["id"] == "1"
        answers.append({name: result.as_numpy(name) for name in names})
    client.unload_model(model)
    assert not client.is_model_ready(model)
    client.load_model(model)
    assert client.is_model_ready(model)
    client.close()
    return answers, told


def triton_binary(address: str, model: str, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    return triton_http(address, model, rows, binary=True)


def triton_grpc(address: str, model: str, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    import tritonclient.grpc as module

    client = module.InferenceServerClient(address)
    told = _triton_told(client, model, as_json=True)
    names = [tensor["name"] for tensor in told["model"]["outputs"]]
    answers = []
    for row in rows:
        result = client.infer(model, _triton(module, row), request_id="1", priority=1, client_timeout=20)
        answers.append({name: result.as_numpy(name) for name in names})
    client.unload_model(model)
    assert not client.is_model_ready(model)
    client.load_model(model)
    client.close()
    return answers, told


def triton_stream(address: str, model: str, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    import tritonclient.grpc as module

    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = module.InferenceServerClient(address)
    told = _triton_told(client, model, as_json=True)
    names = [tensor["name"] for tensor in told["model"]["outputs"]]
    client.start_stream(lambda result, error: came.put((result, error)))
    for number, row in enumerate(rows):
        client.async_stream_infer(
            model, _triton(module, row), request_id=str(number), enable_empty_final_response=True
        )
    client.async_stream_infer("nobody", _triton(module, rows[0]), request_id="x")
    answers: Rows = []
    for number in range(len(rows)):
        result, error = came.get(timeout=30)
        assert error is None, error
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        answers.append({name: result.as_numpy(name) for name in names})
    _, error = came.get(timeout=30)
    told["error"] = str(error)
    client.stop_stream()
    client.close()
    return answers, told


def _kserve(row: dict[str, Any], model: str) -> Any:
    from kserve import InferInput, InferRequest
    from kserve.utils.numpy_codec import from_np_dtype

    inputs = []
    for name, array in row.items():
        given = InferInput(name, list(array.shape), from_np_dtype(array.dtype))
        given.set_data_from_numpy(array, binary_data=False)
        inputs.append(given)
    return InferRequest(model, inputs, request_id="1")


def kserve_rest(address: str, model: str, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    from kserve import InferenceRESTClient, RESTConfig

    async def ask() -> tuple[Rows, dict[str, Any]]:
        client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
        assert await client.is_server_ready(address)
        assert await client.is_server_live(address)
        assert await client.is_model_ready(address, model)
        answers = []
        for row in rows:
            response = await client.infer(address, _kserve(row, model), model_name=model)
            answers.append({output.name: output.as_numpy() for output in response.outputs})
        await client.close()
        return answers, {}

    return asyncio.run(ask())


def kserve_grpc(address: str, model: str, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    from kserve import InferenceGRPCClient

    async def ask() -> tuple[Rows, dict[str, Any]]:
        client = InferenceGRPCClient(address)
        assert await client.is_server_ready()
        assert await client.is_server_live()
        assert await client.is_model_ready(model)
        answers = []
        for row in rows:
            response = await client.infer(_kserve(row, model))
            answers.append({output.name: output.as_numpy() for output in response.outputs})
        await client.close()
        return answers, {}

    return asyncio.run(ask())


CLIENTS = {
    "triton-http": triton_http,
    "triton-http-binary": triton_binary,
    "triton-grpc": triton_grpc,
    "triton-stream": triton_stream,
    "kserve-rest": kserve_rest,
    "kserve-grpc": kserve_grpc,
}

if __name__ == "__main__":
    main()
