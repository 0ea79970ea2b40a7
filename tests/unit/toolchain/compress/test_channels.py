import numpy as np
import pytest

from collab.toolchain.compress.channels import trace
from collab.toolchain.compress.network import Ref
from tests.unit.toolchain.compress.networks import conv, dense, network, node, plain, residual


def test_an_addition_ties_the_channels_of_both_layers():
    found = trace(residual())
    np.testing.assert_array_equal(found.of[Ref("a")], found.of[Ref("b")])
    assert set(found.spaces()) == {("a", "b"), ("c",)}


def test_a_depthwise_layer_keeps_the_channels_and_flatten_repeats_them():
    found = trace(residual())
    np.testing.assert_array_equal(found.of[Ref("depth")], found.of[Ref("c")])
    np.testing.assert_array_equal(found.of[Ref("flat")], np.tile(found.of[Ref("c")], 4))


def test_inputs_and_outputs_stay():
    found = trace(plain())
    for name in ("in", "head"):
        assert set(found.of[Ref(name)].tolist()) <= found.fixed
    assert not set(found.of[Ref("a")].tolist()) & found.fixed


def test_what_is_not_understood_pins_what_goes_into_it():
    rng = np.random.default_rng(0)
    net = network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng),
        node("odd", "Roll", ["a"], (2, 2, 8)),
        node("flat", "Flatten", ["odd"], (32,)),
        dense("head", "flat", 32, 5, rng),
    )
    assert trace(net).spaces() == {}


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolutions_pin_both_sides(groups):
    rng = np.random.default_rng(0)
    net = network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng),
        conv("b", "a", (2, 2, 8), 8, rng, groups),
        node("flat", "Flatten", ["b"], (32,)),
        dense("head", "flat", 32, 5, rng),
    )
    assert trace(net).spaces() == {}


def test_a_gate_of_one_channel_for_all_is_pinned_and_ties_nothing():
    rng = np.random.default_rng(0)
    net = network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng),
        conv("gate", "in", (2, 2, 3), 1, rng),
        node("gated", "Multiply", ["a", "gate"], (2, 2, 8), many=True),
        conv("head", "gated", (2, 2, 8), 5, rng),
    )
    assert set(trace(net).spaces()) == {("a",)}


def test_a_concatenation_keeps_both_sides_apart():
    rng = np.random.default_rng(0)
    net = network(
        node("in", "InputLayer", [], (2, 2, 3)),
        conv("a", "in", (2, 2, 3), 8, rng),
        conv("b", "in", (2, 2, 3), 4, rng),
        node("both", "Concatenate", ["a", "b"], (2, 2, 12), {"axis": -1}, many=True),
        conv("head", "both", (2, 2, 12), 5, rng),
    )
    found = trace(net)
    assert set(found.spaces()) == {("a",), ("b",)}
    np.testing.assert_array_equal(
        found.of[Ref("both")], np.concatenate([found.of[Ref("a")], found.of[Ref("b")]])
    )
