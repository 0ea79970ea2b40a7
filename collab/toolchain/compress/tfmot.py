"""Pruning, clustering and training under quantisation by tensorflow-model-optimization.

Each is a step in a process of its own (`collab.toolchain.steps`) that reads ``before.keras``
and writes ``after.keras`` in its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.errors import ModelError
from collab.toolchain.compress.folding import fold_batch_norms
from collab.toolchain.compress.legacy import FUNCTIONS, build_legacy, fit_legacy, taken_back
from collab.toolchain.compress.network import Array, Network, Node, build, read
from collab.toolchain.compress.training import Progress, Schedule, Taught, ends_in_softmax
from collab.toolchain.keras_files import load_model, write_keras
from collab.toolchain.steps.work import Work

KERNELS: Final = frozenset({"Conv1D", "Conv2D", "Dense"})
"""Layers whose weights are pruned and clustered; depthwise ones are too few to matter."""
_QUANTISED: Final = frozenset({"Conv2D", "DepthwiseConv2D", "Dense"})
_SHAPES: Final = frozenset({"Flatten", "Reshape", "Dropout", "ZeroPadding2D", "MaxPooling2D", "InputLayer"})


def step(work: Work) -> Mapping[str, Any]:
    """Do ``technique`` of the settings."""
    settings = work.settings
    model = load_model(work.folder / "before.keras")
    if not ends_in_softmax(model):
        raise ModelError(f"model {model.name}: does not end in softmax, so there is no loss to train by")
    arrays = np.load(Path(settings["data"]), allow_pickle=False)
    taught = Taught(arrays["inputs"], arrays["labels"])
    schedule = Schedule(**settings["schedule"])

    def tell(done: int, total: int) -> None:
        work.progress(settings["technique"], done, total)

    made = _TECHNIQUES[settings["technique"]](read(model), taught, schedule, settings["amount"], tell)
    write_keras(build(made, model.name), work.folder / "after.keras")
    return {"parameters": made.parameters}


def prune(network: Network, taught: Taught, schedule: Schedule, amount: float, progress: Progress) -> Network:
    """Set the smallest weights of every layer to zero, more and more of them (Zhu and Gupta 2017)."""
    import tensorflow_model_optimization as tfmot

    steps = schedule.steps(len(taught))
    # The last quarter trains with all zeros in their places.
    end = max(1, steps * 3 // 4)
    falling = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=amount / 4,
        final_sparsity=amount,
        begin_step=0,
        end_step=end,
        frequency=max(1, min(50, end // 4)),
    )
    wrapped: dict[str, Any] = {}

    def wrap(node: Node, layer: Any) -> Any:
        if node.kind not in KERNELS:
            return layer
        wrapped[node.name] = tfmot.sparsity.keras.prune_low_magnitude(layer, falling)
        return wrapped[node.name]

    model, layers = build_legacy(network, wrap)
    fit_legacy(model, taught, schedule, progress, [tfmot.sparsity.keras.UpdatePruningStep()])
    values = _values(network, layers)
    for name, wrapper in wrapped.items():
        for variable, mask, _ in wrapper.pruning_vars:
            place = [id(each) for each in layers[name].weights].index(id(variable))
            values[name][place] = np.asarray(variable) * np.asarray(mask)
    return taken_back(network, values)


def cluster(
    network: Network, taught: Taught, schedule: Schedule, amount: float, progress: Progress
) -> Network:
    """Let every layer's weights take ``amount`` values only; zeros stay zeros (Han et al. 2015)."""
    import tensorflow_model_optimization as tfmot

    clustering = tfmot.clustering.keras
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS

    def wrap(node: Node, layer: Any) -> Any:
        kernel = node.weight("kernel")
        if node.kind not in KERNELS or kernel is None or kernel.size < 8 * amount:
            return layer
        sparse = float((kernel == 0).mean()) > 0.2
        return clustering.cluster_weights(
            layer,
            number_of_clusters=int(amount),
            cluster_centroids_init=start,
            preserve_sparsity=sparse,
        )

    model, _ = build_legacy(network, wrap)
    fit_legacy(model, taught, schedule, progress)
    stripped = clustering.strip_clustering(model)
    layers = {node.name: stripped.get_layer(node.name) for node in network.nodes if node.weights}
    return taken_back(network, _values(network, layers))


def qat(network: Network, taught: Taught, schedule: Schedule, amount: float, progress: Progress) -> Network:
    """Train under int8 rounding of weights and activations; batch norms are folded first, as on the device.

    What comes back are float weights that stand the rounding (Jacob et al. 2018); the quantiser
    rounds them as it does all others.
    """
    import tensorflow_model_optimization as tfmot

    folded = fold_batch_norms(network)
    annotate = tfmot.quantization.keras.quantize_annotate_layer
    weights_only, both, outputs = _quantize_configs(tfmot)

    def wrap(node: Node, layer: Any) -> Any:
        if node.kind in _SHAPES or not callable(getattr(layer, "get_config", None)):
            return layer
        if node.kind in _QUANTISED:
            readers = folded.readers(node.name)
            fused = len(readers) == 1 and readers[0].kind in ("ReLU", "Activation", "Relu6")
            return annotate(layer, weights_only() if fused else both())
        return annotate(layer, outputs())

    annotated, _ = build_legacy(folded, wrap)
    custom = {cls.__name__: cls for cls in (weights_only, both, outputs)} | dict(FUNCTIONS)
    with tfmot.quantization.keras.quantize_scope(custom):
        model = tfmot.quantization.keras.quantize_apply(annotated)
    inner = {layer.layer.name: layer for layer in model.layers if hasattr(layer, "layer")}
    layers = {node.name: inner[node.name] for node in folded.nodes if node.weights}
    for node in folded.nodes:
        if node.weights:
            _put(layers[node.name], node)
    fit_legacy(model, taught, schedule, progress)
    return taken_back(folded, {name: _plain(layer, folded.node(name)) for name, layer in layers.items()})


def _quantize_configs(tfmot: Any) -> tuple[Any, Any, Any]:
    """Classes of settings: weights only, weights and outputs, outputs only."""
    quantizers = tfmot.quantization.keras.quantizers

    class WeightsOnly(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
        """Where the activation is a layer of its own, what lies between is never rounded."""

        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            kernel = getattr(layer, "depthwise_kernel", None)
            each = kernel is None
            rounded = quantizers.LastValueQuantizer(
                num_bits=8, per_axis=each, symmetric=True, narrow_range=True
            )
            return [(layer.kernel if each else kernel, rounded)]

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
            name = "kernel" if getattr(layer, "depthwise_kernel", None) is None else "depthwise_kernel"
            setattr(layer, name, quantize_weights[0])

        def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
            return None

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            return []

        def get_config(self) -> dict[str, Any]:
            return {}

    def running() -> list[Any]:
        return [
            quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        ]

    class WeightsAndOutputs(WeightsOnly):
        """Where there is no activation behind."""

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            return running()

    class OutputsOnly(WeightsOnly):
        """Layers without weights."""

        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
            return None

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            return running()

    return WeightsOnly, WeightsAndOutputs, OutputsOnly


def _values(network: Network, layers: Mapping[str, Any]) -> dict[str, list[Array]]:
    return {node.name: layers[node.name].get_weights() for node in network.nodes if node.weights}


def _variables(layer: Any) -> dict[str, Any]:
    """Kernel, bias and what a quantising wrapper adds, by the last part of their names."""
    return {variable.name.rpartition("/")[2].partition(":")[0]: variable for variable in layer.weights}


def _put(layer: Any, node: Node) -> None:
    found = _variables(layer)
    for name, value in node.weights:
        found[_legacy_name(node, name)].assign(value)


def _plain(layer: Any, node: Node) -> list[Array]:
    found = _variables(layer)
    return [np.asarray(found[_legacy_name(node, name)]) for name, _ in node.weights]


def _legacy_name(node: Node, name: str) -> str:
    return "depthwise_kernel" if node.kind == "DepthwiseConv2D" and name == "kernel" else name


_Technique = Callable[[Network, Taught, Schedule, float, Progress], Network]
_TECHNIQUES: Final[Mapping[str, _Technique]] = {"prune": prune, "cluster": cluster, "qat": qat}
