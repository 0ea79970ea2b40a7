"""What inputs are like in training, in a file and on a device."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from collab.errors import InputError
from collab.updates.policies.reference import (
    MAX_VALUES,
    Feature,
    ReferenceFile,
    decode_reference,
    encode_reference,
    features_of,
    looked_at,
    reference_features,
    takers,
)


def test_images_have_summaries_and_channels_and_tables_have_their_columns():
    assert list(features_of((1, 8, 8, 3))) == [
        *("mean", "std", "min", "max"),
        *("channel-0", "channel-1", "channel-2"),
    ]
    assert list(features_of((1, 28, 28, 1))) == ["mean", "std", "min", "max"]
    assert list(features_of((1, 3))) == ["value-0", "value-1", "value-2"]
    assert len(features_of((1, 64))) == 64
    assert "value-0" not in features_of((1, 65))


def test_features_of_a_known_image_are_known():
    image = np.zeros((1, 16, 16, 2), np.uint8)
    image[..., 1] = 4
    taken = {name: take(looked_at(image)) for name, take in features_of(image.shape).items()}
    assert taken == {"mean": 2, "std": 2, "min": 0, "max": 4, "channel-0": 0, "channel-1": 4}


def test_of_large_images_few_values_are_looked_at_and_the_mean_stays():
    image = np.random.default_rng(3).normal(5, 1, (1, 224, 224, 3)).astype(np.float32)
    looked = looked_at(image)
    assert looked.size <= MAX_VALUES
    assert looked.shape[-1] == 3
    assert looked.mean() == pytest.approx(5, abs=0.1)
    stripes = np.zeros((1, 256, 256, 1), np.float32)
    stripes[:, :, ::2] = 1
    assert looked_at(stripes).mean() == pytest.approx(0.5, abs=0.01)


def test_a_reference_holds_bins_of_equal_share_and_leaves_out_what_does_not_differ():
    rows = np.random.default_rng(1).normal(size=(1_000, 3)).astype(np.float32)
    rows[:, 1] = 7
    found = reference_features("x", rows, (1, 3), 64)
    assert [feature.name for feature in found] == ["x:value-0", "x:value-2"]
    assert all(sum(feature.counts) == 1_000 for feature in found)
    assert max(abs(count - 100) for feature in found for count in feature.counts) <= 1


def test_the_file_is_the_same_for_the_same_content_and_reads_back():
    made = ReferenceFile(examples=9, features=(feature(),), accuracy=0.9)
    assert decode_reference(encode_reference(made), "reference.json") == made
    assert encode_reference(made) == encode_reference(decode_reference(encode_reference(made), "it"))


def feature(name: str = "value-0", edges=(0.5,), counts=(1.0, 1.0)) -> Feature:
    return Feature(input="x", feature=name, edges=edges, counts=counts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 2}, "version 2, this collab reads 1"),
        ({"features": tuple(feature(f"value-{i}") for i in range(65))}, "65 are over 64"),
        ({"features": (feature(), feature())}, "one is there twice"),
        ({"features": (feature(edges=(0.5, 0.4), counts=(1.0,) * 3),)}, "do not rise"),
        ({"features": (feature(counts=(1.0,)),)}, "2 to 64 counts"),
        ({"features": (feature(counts=(1.0, -1.0)),)}, "counts at least 0"),
        ({"features": (feature("v" * 300),)}, "over 200 characters"),
        ({"accuracy": 2.0}, "accuracy: 2.0 is not within"),
    ],
)
def test_what_is_out_of_bounds_is_named(fields, said):
    tree = {"version": 1, "examples": 9} | msgspec.to_builtins(fields)
    with pytest.raises(InputError, match=f"it: .*{said}"):
        decode_reference(msgspec.json.encode(tree), "it")


def test_a_feature_that_the_model_has_not_is_refused():
    assert [name for name, _ in takers([feature()], {"x": (1, 3)})] == ["x"]
    for shapes in ({"y": (1, 3)}, {"x": (1, 8, 8, 3)}):
        with pytest.raises(InputError, match="no feature 'x:value-0'"):
            takers([feature()], shapes)
