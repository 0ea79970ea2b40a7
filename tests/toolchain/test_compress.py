"""Every technique on a tiny trained network with a residual block, and whole runs of the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collab.errors import InputError, ModelError
from collab.graph import parse_model
from collab.toolchain.compress.channels import trace
from collab.toolchain.compress.folding import fold_batch_norms
from collab.toolchain.compress.frontier import Targets
from collab.toolchain.compress.importance import activation_scores, least
from collab.toolchain.compress.network import build, read
from collab.toolchain.compress.quantising import Quantiser
from collab.toolchain.compress.recipe import parse
from collab.toolchain.compress.run import open_bench, search
from collab.toolchain.compress.surgery import take_out
from collab.toolchain.compress.training import Schedule, Taught, activations, check_fits, fit
from collab.toolchain.extras import needed
from collab.toolchain.keras_files import load_model, write_keras

pytestmark = [
    pytest.mark.heavy("toolchain"),
    pytest.mark.timeout(300),
    # Keras' own, of numpy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


def examples(count, seed):
    """Images with a bright quarter: which one is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    inputs = rng.normal(0, 0.5, (count, 8, 8, 1)).astype(np.float32)
    for at, label in enumerate(labels):
        y, x = label // 2 * 4, label % 2 * 4
        inputs[at, y : y + 4, x : x + 4] += 1
    return Taught(inputs, labels)


SPLITS = {"train": examples(256, 0), "validation": examples(100, 1), "test": examples(200, 2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ``.keras`` file."""
    keras = needed("keras")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = shortcut = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.Activation("hard_silu")(layers.BatchNormalization(momentum=0.5)(x))
    x = layers.Conv2D(8, 1, name="back")(x)
    x = layers.Add()([x, shortcut])
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="answer")(x))
    fit(model, SPLITS["train"], Schedule(12, 1e-2, 0), lambda *how: None)
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    write_keras(model, path)
    return path


@pytest.fixture(scope="module")
def bench(trained, tmp_path_factory):
    """A bench of it."""
    folder = tmp_path_factory.mktemp("bench")
    return open_bench(folder, trained, SPLITS, 0, False, lambda *how: None, True)


def test_a_network_rebuilt_answers_the_same_and_folded_nearly_so(trained):
    model = load_model(trained)
    network = read(model)
    x = SPLITS["test"].inputs[:8]
    want = np.asarray(model(x))
    np.testing.assert_array_equal(np.asarray(build(network)(x)), want)
    np.testing.assert_allclose(np.asarray(build(fold_batch_norms(network))(x)), want, atol=1e-5)


def test_structured_pruning_shrinks_every_tied_layer(trained):
    model = load_model(trained)
    network, channels = read(model), trace(read(model))
    scores = activation_scores(network, activations(model, SPLITS["train"]))
    smaller = build(take_out(network, channels, least(channels, scores, 0.5)))
    assert [smaller.get_layer(name).kernel.shape[-1] for name in ("back", "hidden")] == [4, 12]
    assert np.asarray(smaller(SPLITS["test"].inputs[:2])).shape == (2, 4)


@pytest.mark.parametrize(
    ("text", "most_size"),
    [
        ("baseline", 1.0),
        ("fp16", 0.75),
        ("dynamic", 0.6),
        ("int8", 0.6),
        ("structured:0.5,epochs=12,rate=0.01 -> int8", 0.5),
        ("distil:0.5,depth=0,epochs=12,rate=0.01", 0.6),
    ],
)
def test_variants_are_smaller_nearly_as_right_and_exact_at_every_cut(bench, text, most_size):
    found = bench.measured(parse(text), text)
    baseline = bench.measured(parse("baseline"), "baseline")
    assert baseline.accuracy > 0.95
    assert found.accuracy > 0.9
    assert found.zstd_bytes <= most_size * baseline.zstd_bytes + 2000
    assert found.parameters <= baseline.parameters + 40
    assert found.cuts[0] == found.cuts[1] > 0


def test_what_was_made_is_not_made_again(bench, monkeypatch):
    first = bench.measured(parse("fp16"), "fp16")
    monkeypatch.setattr("collab.toolchain.compress.run.rounded", None)
    again = replace(bench, material=replace(bench.material, taught=SPLITS["validation"]))
    assert again.measured(parse("fp16"), "fp16") == first


def test_an_operator_can_stay_in_float_among_rounded_ones(bench):
    plain = bench.baseline
    quantiser = Quantiser(plain, SPLITS["train"].inputs[:20])
    name = quantiser.operators()[-1]
    mixed, rounded = parse_model(quantiser.int8([name])), parse_model(quantiser.int8())
    assert mixed.weight_bytes > rounded.weight_bytes


def test_a_representative_set_of_another_shape_is_refused_with_both_shapes(bench):
    with pytest.raises(
        InputError, match=r"shape \[9, 8, 1\], but input 'image' takes float32 of \[8, 8, 1\]"
    ):
        Quantiser(bench.baseline, np.zeros((3, 9, 8, 1), np.float32))
    with pytest.raises(InputError, match="NaN or infinity"):
        Quantiser(bench.baseline, np.full((3, 8, 8, 1), np.nan, np.float32))
    with pytest.raises(InputError, match="is empty"):
        Quantiser(bench.baseline, np.zeros((0, 8, 8, 1), np.float32))


def test_data_that_does_not_fit_the_model_is_refused(trained):
    model = load_model(trained)
    with pytest.raises(InputError, match=r"shape \[4, 4, 1\], but the model takes \[8, 8, 1\]"):
        check_fits(model, Taught(np.zeros((1, 4, 4, 1), np.float32), np.zeros(1, np.int64)))
    with pytest.raises(InputError, match="label 4, but the model has 4 classes"):
        check_fits(model, Taught(np.zeros((1, 8, 8, 1), np.float32), np.array([4])))


def test_a_layer_used_twice_is_refused_by_name():
    keras = needed("keras")
    image = keras.layers.Input((4,))
    twice = keras.layers.Dense(4, name="twice")
    with pytest.raises(ModelError, match="layer twice: is used more than once"):
        read(keras.Model(image, twice(twice(image))))


def test_a_folder_of_another_model_is_refused(bench, trained):
    with pytest.raises(InputError, match="is of another model, data or seed"):
        open_bench(bench.folder, trained, SPLITS, 1, False, lambda *how: None, True)


def test_a_search_chooses_on_the_validation_images_and_measures_on_the_test_images(bench):
    said: list[str] = []
    found = search(bench, [parse("fp16"), parse("int8")], Targets(max_drop=20), (1.0,), said.append)
    assert [each.recipe for each in found.variants] == ["baseline", "fp16", "int8"]
    assert found.best.recipe == found.chosen
    assert found.model == bench.made(parse(found.chosen))
    assert found.best.zstd_bytes == min(each.zstd_bytes for each in found.variants)
    assert len(said) == 2


TFMOT = """
import json, sys
from pathlib import Path
import numpy as np
from collab.toolchain.compress import tfmot
from collab.toolchain.keras_files import load_model
from collab.toolchain.compress.network import build, read
from collab.toolchain.compress.training import Schedule, Taught
arrays = np.load(sys.argv[2])
taught = Taught(arrays["inputs"], arrays["labels"])
# Tracing takes longer than the few steps.
__import__("tensorflow").config.run_functions_eagerly(True)
network = read(load_model(Path(sys.argv[1])))
found = {}
for name, amount in (("prune", 0.5), ("cluster", 16), ("qat", 0)):
    made = getattr(tfmot, name)(network, taught, Schedule(6, 3e-3, 0), amount, lambda *how: None)
    kernel = made.node("hidden").weight("kernel")
    answers = np.asarray(build(made)(arrays["inputs"])).argmax(1)
    found[name] = {
        "right": float((answers == arrays["labels"]).mean()),
        "zeros": float((kernel == 0).mean()),
        "values": len(np.unique(kernel)),
        "norms": sum(node.kind == "BatchNormalization" for node in made.nodes),
    }
print(json.dumps(found))
"""


def test_pruning_clustering_and_training_under_rounding_do_what_they_say(bench):
    arguments = [str(bench.material.baseline), str(bench.material.taught_file)]
    done = subprocess.run(
        [sys.executable, "-c", TFMOT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert min(each["right"] for each in found.values()) > 0.8, found
    assert found["prune"]["zeros"] == pytest.approx(0.5, abs=0.01)
    assert found["cluster"]["values"] <= 16
    assert found["qat"]["norms"] == 0
    assert found["qat"]["values"] > 100
