"""A delegate takes what it knows; the rest cuts the graph, as the interpreter cuts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from collab import assets
from collab.graph import parse_model
from collab.toolchain.devices.catalogue import Delegate, OperatorRule, shipped
from collab.toolchain.devices.facts import OpFacts, facts
from collab.toolchain.devices.partitions import CPU, Partition, fallbacks, partitions, refusal
from tests.tflite_builder import ModelBuilder

ROOT = Path(__file__).parents[4]


def op(name="CONV_2D", *, at=0, activations=("int8",), rank=4, variable=(0,), fused="NONE", keep_dims=None):
    return OpFacts(at, name, False, frozenset(activations), rank, variable, fused, keep_dims, 10, 0, 0)


def delegate(first_only=False, max_rank=None, **operators):
    rules = {name: OperatorRule(**rule) for name, rule in operators.items()}
    return Delegate(
        title="a delegate",
        source="a test",
        operators=rules,
        dtypes=("int8",),
        max_rank=max_rank,
        first_only=first_only,
    )


@pytest.mark.parametrize(
    ("rule", "given", "said"),
    [
        ({}, op("SVDF"), "not among its operators"),
        ({}, op(activations=("float32",)), "float32, it takes int8"),
        ({}, op(activations=("int8", "float32")), "float32, it takes int8"),
        ({}, op(activations=("int32",)), "int32, it takes int8"),
        ({"max_rank": 3}, op(), "rank 4, it takes up to 3"),
        ({"constant": (1,)}, op(variable=(0, 1)), "its input 1 is no constant"),
        ({"fused": ("RELU",)}, op(fused="TANH"), "fused TANH"),
        ({"keep_dims": True}, op(keep_dims=False), "keep_dims is False"),
        ({"inputs": 2}, op(variable=(0, 1, 2)), "3 inputs, it takes 2"),
    ],
)
def test_what_is_refused_says_why(rule, given, said):
    assert refusal(given, delegate(CONV_2D=rule)) == said


@pytest.mark.parametrize(
    "given", [op(), op(activations=("int8", "int32")), op(fused="RELU"), op(variable=(0, 1))]
)
def test_what_breaks_no_rule_is_taken(given):
    assert refusal(given, delegate(CONV_2D={"fused": ("RELU",), "inputs": 2})) is None


def test_operators_in_between_cut_the_graph():
    ops = [op(at=0), op("SVDF", at=1), op(at=2), op(at=3)]
    left = fallbacks(ops, delegate(CONV_2D={}))
    assert [one.at for one in left] == [1]
    assert partitions(4, left, "edgetpu") == [
        Partition(0, 1, "edgetpu"),
        Partition(1, 2, CPU),
        Partition(2, 4, "edgetpu"),
    ]


def test_an_edge_tpu_takes_nothing_behind_the_first_that_it_does_not_know():
    ops = [op(at=0), op("SVDF", at=1), op(at=2)]
    left = fallbacks(ops, delegate(first_only=True, CONV_2D={}))
    assert [one.at for one in left] == [1, 2]
    assert "behind operator 1" in left[1].reason


def mixed():
    """A model with an operator between others that XNNPACK does not know."""
    b = ModelBuilder()
    g = b.main
    y = g.conv(g.input("x", (1, 6, 6, 2)), np.ones((3, 3, 3, 2), np.float32), name="a")
    y = g.unary("FLOOR", g.op("SIGN", [y], name="s", shape=g.shape_of(y)), name="f")
    g.output(g.unary("TANH", y, name="t"))
    return b.build()


@pytest.mark.parametrize(
    "data",
    [
        assets.path("digits.tflite").read_bytes(),
        (ROOT / "tests/data/digits_int8.tflite").read_bytes(),
        (ROOT / "tests/data/digits_dynamic.tflite").read_bytes(),
        mixed(),
    ],
    ids=["float", "int8", "dynamic", "mixed"],
)
def test_xnnpack_gets_as_many_partitions_here_as_the_catalogue_says(data):
    ops = facts(parse_model(data))
    found = partitions(len(ops), fallbacks(ops, shipped().delegates["xnnpack"]), "xnnpack")
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    real = [node for node in interpreter._get_ops_details() if node["op_name"] == "DELEGATE"]
    assert sum(part.on == "xnnpack" for part in found) == len(real)
