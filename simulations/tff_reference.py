"""What tensorflow-federated makes of a problem file; runs in the environment of scripts/tff-environment.

    /tmp/tff/bin/python simulations/tff_reference.py problem.npz answer.npz

The problem has the start weights (``weight/NAME``), the clients' examples (``features/K`` uint8,
``labels/K`` int64),
``rounds``, ``epochs``, ``batch_size``, ``learning_rate``, ``server_rate``, ``momentum``, ``proximal`` and the
names of ``algorithms``; the answer has the weights after the last round (``ALGORITHM/NAME``).
Nothing of collab is imported: these are two programs that agree on two files.

tensorflow-federated 0.87.0 adds ``proximal * (w0 - w)`` to the gradient, which drives a client away from the
round's model; Li et al. (MLSys 2020, equation 2) has ``proximal * (w - w0)``.  ``fedprox`` is computed with
that sign put right, ``fedprox-released`` with the library as it is.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def main(problem: str, answer: str) -> None:
    """Read, run every algorithm, write."""
    given = dict(np.load(problem))
    found = {}
    for algorithm in given["algorithms"]:
        weights = reference(str(algorithm), given)
        found.update({f"{algorithm}/{name}": value for name, value in weights.items()})
    np.savez_compressed(answer, **found)


def reference(algorithm: str, given: dict[str, Any]) -> dict[str, Any]:
    """Weights after all rounds of one of tensorflow-federated's own learning processes."""
    import tensorflow as tf
    import tensorflow_federated as tff

    names = [name.removeprefix("weight/") for name in given if name.startswith("weight/")]
    shapes = [given[f"weight/{name}"].shape for name in names]
    features = given["features/0"].shape[1]
    batch = int(given["batch_size"])

    def network() -> Any:
        widths = [shape[1] for shape in shapes if len(shape) == 2]
        hidden = [tf.keras.layers.Dense(width, activation="relu") for width in widths[:-1]]
        scores = tf.keras.layers.Dense(widths[-1])
        return tf.keras.Sequential([tf.keras.Input((features,)), *hidden, scores])

    def model() -> Any:
        return tff.learning.models.from_keras_model(
            network(),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_spec=(
                tf.TensorSpec((None, features), tf.float32),
                tf.TensorSpec((None,), tf.int64),
            ),
        )

    def data(client: int) -> Any:
        arrays = (given[f"features/{client}"] / np.float32(255), given[f"labels/{client}"])
        return tf.data.Dataset.from_tensor_slices(arrays).batch(batch).repeat(int(given["epochs"]))

    process = _process(algorithm, model, given)
    state = process.initialize()
    start = tff.learning.models.ModelWeights([given[f"weight/{name}"] for name in names], [])
    state = process.set_model_weights(state, start)
    clients = [data(client) for client in range(sum(name.startswith("labels/") for name in given))]
    for _ in range(int(given["rounds"])):
        state = process.next(state, clients).state
    trained = process.get_model_weights(state).trainable
    return {name: np.asarray(value) for name, value in zip(names, trained)}  # noqa: B905


def _process(algorithm: str, model: Any, given: dict[str, Any]) -> Any:
    import tensorflow_federated as tff

    optimizers = tff.learning.optimizers
    client = optimizers.build_sgdm(float(given["learning_rate"]))
    rate, momentum = float(given["server_rate"]), float(given["momentum"])
    servers = {
        "fedavg": lambda: optimizers.build_sgdm(1.0),
        "fedprox": lambda: optimizers.build_sgdm(1.0),
        "fedprox-released": lambda: optimizers.build_sgdm(1.0),
        "fedavgm": lambda: optimizers.build_sgdm(1.0, momentum=momentum),
        "fedadam": lambda: optimizers.build_adam(rate, beta_1=0.9, beta_2=0.99, epsilon=1e-3),
        "fedyogi": lambda: optimizers.build_yogi(
            rate, beta_1=0.9, beta_2=0.99, epsilon=1e-3, initial_preconditioner_value=1e-6
        ),
        "fedadagrad": lambda: optimizers.build_adagrad(rate, initial_preconditioner_value=1e-6, epsilon=1e-3),
    }
    algorithms = tff.learning.algorithms
    if algorithm.startswith("fedprox"):
        from tensorflow_federated.python.learning.algorithms import fed_prox
        from tensorflow_federated.python.learning.templates import proximal_client_work as released

        right = algorithm == "fedprox"
        fed_prox.proximal_client_work = _sign_put_right(released) if right else released
        return algorithms.build_weighted_fed_prox(
            model,
            proximal_strength=float(given["proximal"]),
            client_optimizer_fn=client,
            server_optimizer_fn=servers[algorithm](),
        )
    return algorithms.build_weighted_fed_avg(
        model, client_optimizer_fn=client, server_optimizer_fn=servers[algorithm]()
    )


def _sign_put_right(released: Any) -> Any:
    """A copy of the library's module in which the proximal term pulls towards the round's model."""
    source = Path(released.__file__).read_text("utf-8")
    wrong = "delta_l2_regularizer * (y - x)"
    if source.count(wrong) != 2:
        raise SystemExit("proximal_client_work.py is not the one of 0.87.0; look at the sign of its term")
    # The copy stays until the end: autograph reads the source of functions when it traces them.
    copy = Path(tempfile.mkdtemp(dir=Path(sys.argv[2]).parent)) / "proximal_client_work.py"
    copy.write_text(source.replace(wrong, "delta_l2_regularizer * (x - y)"), "utf-8")
    spec = importlib.util.spec_from_file_location("proximal_client_work", copy)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
