import numpy as np
import pytest

from collab.toolchain.compress.channels import trace
from collab.toolchain.compress.folding import fold_batch_norms
from collab.toolchain.compress.importance import kept_of, l1_scores, least, scale_scores
from collab.toolchain.compress.merging import alike
from collab.toolchain.compress.network import Ref
from collab.toolchain.compress.students import student_of
from collab.toolchain.compress.surgery import take_out
from tests.unit.toolchain.compress.networks import network, node, plain, residual, run

X = np.random.default_rng(9).normal(size=(6, 2, 2, 3))


def silenced(net, channels, gone):
    """The network with nothing read of the classes that go: what taking them out must equal."""
    changed = {}
    for each in net.nodes:
        if each.kind in ("Conv2D", "Dense"):
            kernel = each.weight("kernel").copy()
            reads = [number in gone for number in channels.of[each.inputs[0]].tolist()]
            np.moveaxis(kernel, -2, 0)[reads] = 0
            changed[each.name] = each.with_weights(kernel=kernel)
    return net.changed(changed)


@pytest.mark.parametrize("scores", [l1_scores, scale_scores])
@pytest.mark.parametrize("make", [residual, plain])
def test_taking_channels_out_equals_reading_nothing_of_them(make, scores):
    net = make()
    channels = trace(net)
    gone = least(channels, scores(net), 0.5)
    assert gone
    smaller = take_out(net, channels, gone)
    assert smaller.parameters < 0.7 * net.parameters
    np.testing.assert_allclose(run(smaller, X), run(silenced(net, channels, gone), X), atol=1e-5)


def test_the_least_important_channels_of_a_space_go():
    net = plain()
    kernel = net.node("a").weight("kernel").copy()
    kernel[..., [1, 4, 5, 6]] *= 100
    net = net.changed({"a": net.node("a").with_weights(kernel=kernel)})
    channels = trace(net)
    gone = least(channels, l1_scores(net), 0.5)
    assert [at for at, number in enumerate(channels.of[Ref("a")].tolist()) if number in gone] == [0, 2, 3, 7]


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(64, 0.5, 32), (30, 0.5, 16), (8, 0.01, 4), (3, 0.5, 3)]
)
def test_widths_are_multiples_of_four_where_there_are_so_many(count, share, kept):
    assert kept_of(count, share) == kept


def test_folding_a_batch_norm_changes_nothing_but_rounding():
    net = residual()
    folded = fold_batch_norms(net)
    assert [each.name for each in folded.nodes if each.kind == "BatchNormalization"] == []
    assert folded.node("a").config["use_bias"]
    np.testing.assert_allclose(run(folded, X), run(net, X), atol=1e-5)


def test_a_norm_behind_what_others_read_too_is_not_folded():
    net = residual()
    other = node("other", "Add", ["a", "b"], (2, 2, 8), many=True)
    nodes = [*net.nodes[:-1], other, net.nodes[-1]]
    assert [each.kind for each in fold_batch_norms(network(*nodes)).nodes].count("BatchNormalization") == 1


def test_neurons_that_point_the_same_way_merge_without_a_change():
    net = plain()
    kernel, bias = net.node("a").weight("kernel").copy(), net.node("a").weight("bias").copy()
    for one, other, factor in ((0, 5, 2.0), (1, 6, 0.5), (2, 3, 1.0), (4, 7, 3.0)):
        kernel[..., other], bias[other] = factor * kernel[..., one], factor * bias[one]
    net = net.changed({"a": net.node("a").with_weights(kernel=kernel, bias=bias)})
    channels = trace(net)
    gone, merged = alike(net, channels, 0.5)
    assert len(gone) == 4
    smaller = take_out(net, channels, gone, merged)
    assert smaller.node("a").config["filters"] == 4
    np.testing.assert_allclose(run(smaller, X), run(net, X), atol=1e-4)


def test_neurons_are_not_merged_across_a_depthwise_layer_or_a_bounded_activation():
    net = residual()
    gone, merged = alike(net, trace(net), 0.5)
    assert not gone
    assert not merged
    bounded = plain()
    relu6 = bounded.node("a_relu").with_config(max_value=6.0)
    bounded = bounded.changed({"a_relu": relu6})
    assert not alike(bounded, trace(bounded), 0.5)[0]


def test_a_student_is_narrower_and_leaves_residual_branches_out():
    student = student_of(residual(), 0.5, 0.0)
    assert [each.name for each in student.nodes if each.kind == "Conv2D"] == ["a", "c"]
    assert [student.node(name).config["filters"] for name in ("a", "c")] == [4, 8]
    assert not any(each.weights for each in student.nodes)
    assert student.node("head").config["units"] == 5


def test_depth_goes_into_width_where_asked():
    student = student_of(residual(), 1.5, 0.0)
    assert student.node("c").config["filters"] == 16
    assert student.node("a").config["filters"] == 12
