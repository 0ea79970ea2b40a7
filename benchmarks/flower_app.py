"""Flower's side of benchmarks.federated; runs in the environment of scripts/flower-environment.

    flower_app.py server FOLDER ADDRESS      # legacy gRPC: start_server
    flower_app.py client FOLDER ADDRESS K    # legacy gRPC: start_client
    server_app(), client_app()               # SuperLink and SuperNodes; FOLDER in $FLOWER_FOLDER

The folder holds ``settings.json``, ``initial.npz`` (``w0``, ``w1``, … in Keras' order) and ``part-K.npz``
(``x`` uint8, ``y``); the server leaves ``round-K.npz`` and ``times.json``.  Nothing of collab is imported.
Clients train with TensorFlow as Flower's own TensorFlow example does: ``model.fit``.  The settings
have a seed for each client and round: its examples come in the order of ours, so that both do the same steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def settings(folder: Path) -> dict[str, Any]:
    """Clients, rounds, epochs, batch size, learning rate, layers."""
    found: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    return found


def arrays(path: Path) -> list[Any]:
    """Weights in Keras' order."""
    with np.load(path) as stored:
        return [stored[f"w{i}"] for i in range(len(stored))]


def network(layers: list[dict[str, Any]]) -> Any:
    """The Keras model of a list such as ``[{"kind": "conv", "width": 8, "size": 3}, {"kind": "pool"}]``."""
    import keras

    made: list[Any] = [keras.Input((28, 28, 1))]
    for layer in layers:
        kind = layer["kind"]
        if kind == "conv":
            made.append(keras.layers.Conv2D(layer["width"], layer["size"], padding="same", activation="relu"))
        elif kind == "pool":
            made.append(keras.layers.MaxPooling2D())
        elif kind == "flatten":
            made.append(keras.layers.Flatten())
        else:
            made.append(keras.layers.Dense(layer["width"], activation=layer.get("activation")))
    return keras.Sequential(made)


def client(folder: Path, number: int) -> Any:
    """One Flower client with its part of the data."""
    import keras
    from flwr.client import NumPyClient

    given = settings(folder)
    model = network(given["layers"])
    model.compile(
        keras.optimizers.SGD(given["learning_rate"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    with np.load(folder / f"part-{number}.npz") as part:
        x, y = part["x"].astype(np.float32) / np.float32(255), part["y"]

    class Device(NumPyClient):  # type: ignore[misc]
        def fit(self, parameters: Any, config: Any) -> Any:
            model.set_weights(parameters)
            seed = given["seeds"][number][config["round"] - 1]
            for epoch in range(given["epochs"]):
                order = np.random.default_rng((seed, epoch)).permutation(len(y))
                model.fit(x[order], y[order], batch_size=given["batch_size"], shuffle=False, verbose=0)
            return model.get_weights(), len(y), {}

    return Device().to_client()


def strategy(folder: Path) -> Any:
    """FedAvg over all clients, with a clock."""
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server.strategy import FedAvg

    given = settings(folder)
    times: list[tuple[str, int, float]] = []

    class Timed(FedAvg):  # type: ignore[misc]
        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            client_manager.wait_for(given["clients"], timeout=300)
            times.append(("begin", server_round, time.time()))
            return super().configure_fit(server_round, parameters, client_manager)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            found = super().aggregate_fit(server_round, results, failures)
            times.append(("end", server_round, time.time()))
            if len(results) != given["clients"]:
                raise SystemExit(f"round {server_round}: {len(results)} results, {failures}")
            weights = parameters_to_ndarrays(found[0])
            np.savez(folder / f"round-{server_round}.npz", **{f"w{i}": w for i, w in enumerate(weights)})
            (folder / "times.json").write_text(json.dumps(times))
            return found

    count = given["clients"]
    return Timed(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=count,
        min_available_clients=count,
        on_fit_config_fn=lambda server_round: {"round": server_round},
        initial_parameters=ndarrays_to_parameters(arrays(folder / "initial.npz")),
    )


def serve(folder: Path, address: str) -> None:
    """The legacy gRPC server."""
    from flwr.server import ServerConfig, start_server

    rounds = settings(folder)["rounds"]
    start_server(server_address=address, config=ServerConfig(num_rounds=rounds), strategy=strategy(folder))


def take_part(folder: Path, address: str, number: int) -> None:
    """A legacy gRPC client."""
    from flwr.client import start_client

    start_client(server_address=address, client=client(folder, number), insecure=True)


def server_app() -> Any:
    """What SuperLink runs."""
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig

    folder = Path(os.environ["FLOWER_FOLDER"])

    def components(context: Any) -> Any:
        config = ServerConfig(num_rounds=settings(folder)["rounds"])
        return ServerAppComponents(strategy=strategy(folder), config=config)

    return ServerApp(server_fn=components)


def client_app() -> Any:
    """What a SuperNode runs."""
    from flwr.client import ClientApp

    folder = Path(os.environ["FLOWER_FOLDER"])
    return ClientApp(client_fn=lambda context: client(folder, int(context.node_config["partition-id"])))


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "server":
        serve(Path(where), rest[0])
    else:
        take_part(Path(where), rest[0], int(rest[1]))
