"""Small networks of plain nodes, computed with numpy: what surgery must leave the same."""

from __future__ import annotations

import numpy as np

from collab.toolchain.compress.network import Network, Node, Ref


def node(name, kind, inputs, shape, config=None, many=False, **weights):
    refs = [Ref(each) for each in inputs]
    args = (refs,) if many else tuple(refs)
    return Node(name, kind, object, config or {}, args, {}, (shape,), tuple(weights.items()))


def conv(name, given, shape, filters, rng, groups=1, bias=True):
    weights = {"kernel": rng.normal(size=(1, 1, shape[-1] // groups, filters)).astype(np.float32)}
    if bias:
        weights["bias"] = rng.normal(size=filters).astype(np.float32)
    config = {"filters": filters, "groups": groups, "activation": "linear", "use_bias": bias}
    return node(name, "Conv2D", [given], (*shape[:-1], filters), config, **weights)


def dense(name, given, count, units, rng):
    kernel = rng.normal(size=(count, units)).astype(np.float32)
    config = {"units": units, "activation": "linear", "use_bias": True}
    return node(name, "Dense", [given], (units,), config, kernel=kernel, bias=np.zeros(units, np.float32))


def norm(name, given, shape, rng):
    channels = shape[-1]
    return node(
        name,
        "BatchNormalization",
        [given],
        shape,
        {"axis": -1, "epsilon": 1e-3},
        gamma=rng.uniform(0.5, 1.5, channels).astype(np.float32),
        beta=rng.normal(size=channels).astype(np.float32),
        moving_mean=rng.normal(size=channels).astype(np.float32),
        moving_variance=rng.uniform(0.5, 1.5, channels).astype(np.float32),
    )


def network(*nodes):
    return Network(nodes, (Ref(nodes[0].name),), (Ref(nodes[-1].name),))


def residual(seed=0):
    """Two layers added to each other, a gate, a depthwise layer, Flatten and a head."""
    rng = np.random.default_rng(seed)
    shape = (2, 2, 8)
    return network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng, bias=False),
        norm("a_norm", "a", shape, rng),
        node("a_relu", "ReLU", ["a_norm"], shape),
        conv("b", "a_relu", shape, 8, rng),
        node("sum", "Add", ["a_relu", "b"], shape, many=True),
        conv("c", "sum", shape, 12, rng),
        node(
            "depth",
            "DepthwiseConv2D",
            ["c"],
            (2, 2, 12),
            {"depth_multiplier": 1},
            kernel=rng.normal(size=(1, 1, 12, 1)).astype(np.float32),
        ),
        node("c_relu", "ReLU", ["depth"], (2, 2, 12)),
        node("flat", "Flatten", ["c_relu"], (48,)),
        dense("head", "flat", 48, 5, rng),
    )


def plain(seed=0):
    """A layer, ReLU, Flatten, a head: neurons of `a` can be merged."""
    rng = np.random.default_rng(seed)
    return network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng),
        node("a_relu", "ReLU", ["a"], (2, 2, 8)),
        node("flat", "Flatten", ["a_relu"], (32,)),
        dense("head", "flat", 32, 5, rng),
    )


def run(net, x):
    """What a network answers to ``x`` [n, …], in float64."""
    values: dict[str, np.ndarray] = {}
    for each in net.nodes:
        given = [values[ref.node] for ref in each.inputs]
        weights = {key: value.astype(np.float64) for key, value in each.weights}
        values[each.name] = _apply(each, given, weights, x)
    return values[net.outputs[0].node]


def _apply(each, given, weights, x):
    if each.kind == "InputLayer":
        return x
    if each.kind == "Conv2D":
        return given[0] @ weights["kernel"][0, 0] + weights.get("bias", 0.0)
    if each.kind == "Dense":
        return given[0] @ weights["kernel"] + weights["bias"]
    if each.kind == "DepthwiseConv2D":
        return given[0] * weights["kernel"][0, 0, :, 0] + weights.get("bias", 0.0)
    if each.kind == "BatchNormalization":
        spread = np.sqrt(weights["moving_variance"] + each.config["epsilon"])
        return (given[0] - weights["moving_mean"]) / spread * weights["gamma"] + weights["beta"]
    if each.kind == "ReLU":
        return np.maximum(given[0], 0)
    if each.kind == "Add":
        return given[0] + given[1]
    if each.kind == "Flatten":
        return given[0].reshape(len(x), -1)
    raise AssertionError(each.kind)
