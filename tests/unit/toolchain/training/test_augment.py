"""Changes to inputs keep their shape, depend on the generator alone, and do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import UsageError
from collab.toolchain.training.augment import Augment, read_augment

ALL = Augment(flip=True, shift=1, rotate=10, zoom=0.1, cutout=2, noise=0.1, scale=0.1)


def pictures(count=6):
    return np.random.default_rng(0).random((count, 8, 7, 3), np.float32)


def test_the_same_generator_gives_the_same_pictures_and_leaves_the_originals():
    given = pictures()
    kept = given.copy()
    one, same, other = (ALL.apply(given, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(given, kept)
    assert one.shape == given.shape
    assert one.dtype == np.float32
    assert not np.array_equal(one, other)


def test_nothing_chosen_changes_nothing():
    given = pictures()
    np.testing.assert_array_equal(Augment().apply(given, np.random.default_rng(0)), given)


def test_flipping_turns_about_half_and_nothing_else():
    given = pictures(200)
    made = Augment(flip=True).apply(given, np.random.default_rng(0))
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(made, given, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(made, given, strict=True)]
    assert all(a != b for a, b in zip(turned, same, strict=True))
    assert 60 < sum(turned) < 140


def test_cutting_out_sets_a_square_to_zero():
    made = Augment(cutout=2).apply(pictures() + 1, np.random.default_rng(0))
    cut = [(one == 0).all(axis=-1).sum() for one in made]
    assert all(4 <= count <= 9 for count in cut)


def test_windows_move_in_time_by_whole_steps():
    given = np.arange(10, dtype=np.float32)[None, :, None].repeat(50, 0)
    made = Augment(shift=2).apply(given, np.random.default_rng(0))
    shifts = {int(row[5, 0]) - 5 for row in made}
    assert shifts == {-2, -1, 0, 1, 2}


def test_text_says_what_and_how_much():
    assert read_augment("flip, shift=2,zoom=0.1") == Augment(flip=True, shift=2, zoom=0.1)
    assert read_augment("") == Augment()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flp", "did you mean 'flip'"),
        ("shift", "say how much, such as shift=2"),
        ("zoom=2", "Expected `float` < 1"),
        ("noise=x", "Expected `float`"),
    ],
)
def test_wrong_text_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        read_augment(text)


def test_a_change_that_the_inputs_cannot_have_is_refused():
    with pytest.raises(UsageError, match="--augment flip: cannot be done"):
        Augment(flip=True).check((128, 6))
    with pytest.raises(UsageError, match="--augment shift"):
        Augment(shift=1).check((9,))
    Augment(shift=1, noise=0.1).check((128, 6))
    ALL.check((8, 8, 3))
