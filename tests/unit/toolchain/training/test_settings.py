"""Settings are checked by option, the order of examples depends on seed and epoch, the best epoch is kept."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import UsageError
from collab.toolchain.data.prepared import Examples
from collab.toolchain.training.batches import balanced, batch_at, mask_seeds, order, steps_of
from collab.toolchain.training.judge import judge
from collab.toolchain.training.settings import Settings, changed, read_settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "--epochs: Expected `int` >= 1"),
        ({"schedule": "cosin"}, "--schedule: Invalid enum value 'cosin'"),
        ({"early_stopping": 0}, "--early-stopping: "),
        ({"warmup": 1, "schedule": "step"}, "--warmup: goes with --schedule constant or cosine"),
        ({"warmup": 10}, "must be shorter than the 10 epochs"),
    ],
)
def test_a_wrong_setting_names_its_option(given, message):
    with pytest.raises(UsageError, match=message):
        read_settings(given)


def test_what_differs_from_a_run_is_found():
    kept = read_settings({"lr": 0.01, "augment": {"flip": True}})
    assert changed(kept, {"lr": 0.01, "augment": {"flip": True}}) == []
    assert changed(kept, {"lr": 0.02, "epochs": 3}) == ["epochs", "lr"]


def examples(count=10):
    return Examples(np.arange(count, dtype=np.float32)[:, None], np.arange(count, dtype=np.int64))


def test_an_epoch_has_each_example_once_in_an_order_of_its_own():
    settings, given = read_settings({"batch": 4, "seed": 3}), examples()
    orders = [order(settings, epoch, 10) for epoch in (1, 2, 1)]
    np.testing.assert_array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])
    seen = [batch_at(given, orders[0], settings, 1, step) for step in range(steps_of(10, 4))]
    assert [len(labels) for _, labels in seen] == [4, 4, 2]
    assert sorted(int(y) for _, labels in seen for y in labels) == list(range(10))
    assert all(np.array_equal(x[:, 0], y) for x, y in seen)


def test_a_step_is_changed_alike_whenever_it_is_asked_for():
    settings, given = read_settings({"batch": 4, "augment": {"noise": 1.0}}), examples()
    rows = order(settings, 1, 10)
    late, early = (batch_at(given, rows, settings, 1, 2)[0] for _ in range(2))
    np.testing.assert_array_equal(late, early)
    assert not np.array_equal(batch_at(given, rows, settings, 2, 2)[0], late)


def test_masks_of_each_epoch_and_layer_are_their_own():
    seeds = [tuple(words) for epoch in (1, 2) for words in mask_seeds(Settings(), epoch, 3)]
    assert len(set(seeds)) == 6


def test_balanced_weights_make_classes_count_alike():
    labels = np.array([0] * 6 + [2] * 2)
    weights = balanced(labels, 3)
    assert weights[1] == 0
    assert weights[0] * 6 == weights[2] * 2 == 4


def history(*values, key="val_accuracy"):
    return [{"loss": 1.0, key: value} for value in values]


@pytest.mark.parametrize(
    ("values", "more", "best", "ended"),
    [
        ((0.5,), {}, 1, False),
        ((0.5, 0.7, 0.7), {}, 2, False),
        ((0.5, 0.7, 0.6, 0.6), {"early_stopping": 2}, 2, True),
        ((0.5, 0.7, 0.6), {"early_stopping": 2}, 2, False),
        ((0.1, 0.2), {"epochs": 2}, 2, True),
    ],
)
def test_the_first_of_the_best_epochs_is_kept(values, more, best, ended):
    verdict = judge(history(*values), read_settings(more))
    assert (verdict.best, verdict.ended) == (best, ended)


def test_a_loss_is_best_where_it_is_lowest_and_without_validation_the_last_epoch_is():
    assert judge(history(3.0, 1.0, 2.0, key="val_loss"), read_settings({"monitor": "val_loss"})).best == 2
    assert judge([{"loss": 1.0}, {"loss": 2.0}], Settings()).best == 2
