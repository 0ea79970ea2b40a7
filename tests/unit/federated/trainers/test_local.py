"""Local training: the same in, the same out; within its budget; corrected as the task says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from collab.errors import BackendError, Cancelled, ConfigError, LimitExceeded, ModelError, TensorError
from collab.federated.data.examples import Data, Examples
from collab.federated.trainable import Description, DropoutMask, Weight
from collab.federated.trainers.litert import LiteRtTrainer
from collab.federated.trainers.local import Budget, LocalTrainer, Step
from collab.federated.update import LocalTraining

MODELS = Path(__file__).parents[3] / "data"
SIZE = 4


class Line:
    """Engine of ``y = x * slope + offset`` under squared error; remembers its batches."""

    def __init__(self, dropout=0.0, step_bytes=0):
        self.description = Description(
            format=1,
            loss="mean_squared_error",
            batch_size=SIZE,
            input_shape=(1,),
            output_shape=(1,),
            weights=(Weight("slope", (1,)), Weight("seen", (1,), False), Weight("offset", (1,))),
            dropout={"d": DropoutMask(dropout, (1,))} if dropout else {},
        )
        self.initial = {name: np.zeros(1, np.float32) for name in ("slope", "seen", "offset")}
        self.step_bytes = step_bytes
        self.batches = []

    @np.errstate(over="ignore", invalid="ignore")
    def step(self, parameters, batch):
        self.batches.append(batch)
        off = batch.x[:, 0] * parameters["slope"] + parameters["offset"] - batch.y[:, 0]
        made = {"slope": 2 * batch.x[:, 0] * off, "offset": 2 * off}
        gradients = {k: np.array([np.dot(v, batch.weight)], np.float32) for k, v in made.items()}
        seen = parameters["seen"] + np.float32(np.count_nonzero(batch.weight))
        return Step(float(np.dot(off**2, batch.weight)), 0.0, gradients, {"seen": seen})

    def measure(self, parameters, batch):
        off = batch.x[:, 0] * parameters["slope"] + parameters["offset"] - batch.y[:, 0]
        return float(np.dot(off**2, batch.weight)), 0.0


def line(count=10, held_out=3):
    x = np.linspace(-1, 1, count + held_out, dtype=np.float32)[:, None]
    every = Examples(x, 3 * x + 1)
    return Data(every.first(count), Examples(every.x[count:], every.y[count:]))


def start():
    return Line().initial


def test_it_learns_and_returns_everything_in_the_models_order():
    trainer = LocalTrainer(Line(), line())
    before = start()
    trained = trainer.train(before, LocalTraining(epochs=60, batch_size=4))
    assert list(trained.parameters) == ["slope", "seen", "offset"]
    assert trained.parameters["slope"][0] == pytest.approx(3, abs=0.05)
    assert trained.parameters["offset"][0] == pytest.approx(1, abs=0.05)
    assert trained.parameters["seen"][0] == 600
    assert (trained.samples, trained.steps) == (10, 180)
    assert not trained.control
    assert not before["slope"].any()
    assert trainer.evaluate(trained.parameters)["loss"] < 0.01 < trainer.evaluate(before)["loss"]
    assert trainer.evaluate(before)["samples"] == 3


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    engine = Line()
    LocalTrainer(engine, line()).train(start(), LocalTraining(epochs=2, batch_size=4, seed=5))
    sizes = [np.count_nonzero(batch.weight) for batch in engine.batches]
    assert sizes == [4, 4, 2, 4, 4, 2]
    assert all(batch.weight.sum() == pytest.approx(1) for batch in engine.batches)
    seen = [
        np.concatenate([b.x[b.weight > 0, 0] for b in engine.batches[part]])
        for part in (slice(3), slice(3, 6))
    ]
    assert not np.array_equal(*seen)
    assert np.array_equal(*map(np.sort, seen))


def test_a_batch_larger_than_the_engines_gives_the_same_step():
    wide, narrow = Line(), Line()
    wide.description = msgspec.structs.replace(wide.description, batch_size=10)
    task = LocalTraining(epochs=3, batch_size=10)
    left, right = (LocalTrainer(e, line()).train(start(), task) for e in (wide, narrow))
    assert (len(wide.batches), len(narrow.batches)) == (3, 9)
    assert left.steps == right.steps == 3
    assert left.parameters["slope"] == pytest.approx(right.parameters["slope"], rel=1e-5)


def test_the_proximal_term_pulls_towards_the_start():
    trainer = LocalTrainer(Line(), line())
    ends = [
        trainer.train(start(), LocalTraining(epochs=20, proximal=mu)).parameters["slope"][0]
        for mu in (0.0, 1.0, 10.0)
    ]
    assert ends[0] > ends[1] > ends[2] > 0
    # One step from the start: the term is nothing there.
    one = [
        trainer.train(start(), LocalTraining(max_steps=1, proximal=mu)).parameters["slope"][0]
        for mu in (0.0, 10.0)
    ]
    assert one[0] == one[1]


def test_a_correction_moves_each_step_and_the_control_says_what_the_data_did():
    trainer = LocalTrainer(Line(), line())
    task = LocalTraining(epochs=2, batch_size=5, learning_rate=0.05)
    zero = {name: np.zeros(1, np.float32) for name in ("slope", "offset")}
    plain, same = trainer.train(start(), task), trainer.train(start(), task, correction=zero)
    assert plain.parameters["slope"] == same.parameters["slope"]
    moved = trainer.train(start(), task, correction=zero | {"slope": np.ones(1, np.float32)})
    assert moved.parameters["slope"] < plain.parameters["slope"]
    # SCAFFOLD, option II: (start - end) / (steps * rate) - correction.
    steps = 4
    mean = -moved.parameters["slope"] / np.float32(steps * 0.05)
    assert moved.control["slope"] == pytest.approx(mean - 1, rel=1e-5)
    assert list(moved.control) == ["slope", "seen", "offset"]
    assert moved.control["seen"] == 0


def test_cancelling_ends_it_between_two_steps():
    engine, asked = Line(), []

    def cancelled():
        asked.append(len(engine.batches))
        return len(asked) > 3

    with pytest.raises(Cancelled, match="after 3 steps"):
        LocalTrainer(engine, line()).train(
            start(), LocalTraining(epochs=9, batch_size=4), cancelled=cancelled
        )
    assert asked == [0, 1, 2, 3]


def test_time_ends_it_after_a_whole_step_and_it_says_so():
    times = iter(np.arange(0, 1000, 1.0))
    trainer = LocalTrainer(Line(), line(), Budget(seconds=4.5), clock=lambda: next(times))
    trained = trainer.train(start(), LocalTraining(epochs=9, batch_size=2))
    assert 1 <= trained.steps < 9
    assert trained.metrics["truncated"] == 1
    assert trained.samples == 2 * trained.steps


def test_at_least_one_step_is_made():
    trainer = LocalTrainer(Line(), line(), Budget(seconds=1e-9))
    assert trainer.train(start(), LocalTraining(batch_size=2)).steps == 1


def test_the_budget_bounds_examples_and_memory():
    trainer = LocalTrainer(Line(), line(), Budget(samples=6))
    assert trainer.samples == trainer.train(start(), LocalTraining(epochs=2)).samples == 6
    with pytest.raises(LimitExceeded, match="memory_bytes allows 1000"):
        LocalTrainer(Line(step_bytes=950), line(), Budget(memory_bytes=1000))
    LocalTrainer(Line(step_bytes=500), line(), Budget(memory_bytes=1000))


def test_masks_are_drawn_by_seed_and_keep_the_mean():
    def masks(seed):
        engine = Line(dropout=0.25)
        LocalTrainer(engine, line(400)).train(start(), LocalTraining(batch_size=4, seed=seed))
        return np.concatenate([batch.masks["d"] for batch in engine.batches])

    first = masks(1)
    assert set(np.unique(first)) == {0, np.float32(1 / 0.75)}
    assert first.mean() == pytest.approx(1, abs=0.15)
    assert np.array_equal(first, masks(1))
    assert not np.array_equal(first, masks(2))


def test_a_loss_that_is_no_number_ends_it():
    trainer = LocalTrainer(Line(), line())
    with pytest.raises(BackendError, match=r"the loss is (inf|nan) after .*lower learning_rate"):
        trainer.train(start(), LocalTraining(epochs=200, learning_rate=1e9))
    # Within one step: what it would return is no number either.
    with pytest.raises(BackendError, match="weights are not finite after 1 step"):
        trainer.train(start(), LocalTraining(max_steps=1, learning_rate=3e38))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("epochs", 0),
            ("batch_size", 0),
            ("learning_rate", 0.0),
            ("learning_rate", float("nan")),
            ("learning_rate", 1e39),
        ),
        *(("momentum", 1.0), ("proximal", -1.0), ("max_steps", 0), ("seed", -1), ("optimizer", "lion")),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_field(field, value):
    task = dataclasses.replace(LocalTraining(), **{field: value})
    with pytest.raises(ConfigError, match=field):
        LocalTrainer(Line(), line()).train(start(), task)


def test_parameters_that_are_not_the_models_are_refused():
    trainer = LocalTrainer(Line(), line())
    with pytest.raises(TensorError, match="start lacks 'slope'"):
        trainer.train({}, LocalTraining())
    with pytest.raises(TensorError, match=r"'slope' has shape \(2,\), the model has \(1,\)"):
        trainer.evaluate(start() | {"slope": np.zeros(2, np.float32)})


# --- on LiteRT -------------------------------------------------------------------


def digits(count, seed=0):
    """Blank images with a bright column where the label says."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    images = rng.integers(0, 60, (count, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label + 4 : 2 * label + 6] = 255
    return Examples(images, labels, 255.0)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_model_learns_on_litert_alone_and_gives_the_same_bits_again(name):
    model = (MODELS / f"trainable_{name}.tflite").read_bytes()
    data = Data(digits(110), digits(50, 1))
    task = LocalTraining(epochs=3, batch_size=20, optimizer="adam", learning_rate=3e-3)
    first, second = (LiteRtTrainer(model, data) for _ in range(2))
    trained, again = (t.train(t.initial, task) for t in (first, second))
    for key, value in trained.parameters.items():
        np.testing.assert_array_equal(again.parameters[key], value)
    measured = first.evaluate(trained.parameters)
    assert measured["accuracy"] > 0.6 > 0.3 > first.evaluate(first.initial)["accuracy"]
    assert measured["samples"] == 50
    assert trained.metrics["accuracy"] > 0.2
    assert (trained.steps, trained.samples) == (18, 110)


def test_data_that_does_not_fit_the_model_is_refused():
    model = (MODELS / "trainable_mlp.tflite").read_bytes()
    good = digits(5)
    with pytest.raises(TensorError, match=r"have shape \(28, 28\), the model takes \(28, 28, 1\)"):
        LiteRtTrainer(model, Data(Examples(good.x[..., 0], good.y), good))
    wrong = good.y.copy()
    wrong[3] = 10
    with pytest.raises(TensorError, match="example 3 has label 10; the model has classes 0 to 9"):
        LiteRtTrainer(model, Data(Examples(good.x, wrong), good))
    with pytest.raises(TensorError, match="no examples"):
        LiteRtTrainer(model, Data(good.first(0), good))


def test_a_line_of_settings_says_where_the_examples_are(tmp_path):
    good = digits(30)
    np.savez(tmp_path / "a.npz", images=good.x[..., 0], labels=good.y)
    line = f"{tmp_path / 'a.npz'}?scale=255&held_out=0.2"
    trainer = LiteRtTrainer(MODELS / "trainable_mlp.tflite", line)
    assert (trainer.samples, trainer.evaluate(trainer.initial)["samples"]) == (24, 6)
    with pytest.raises(LimitExceeded, match="there is room for 5000"):
        LiteRtTrainer(MODELS / "trainable_mlp.tflite", line, budget=Budget(memory_bytes=5000))


def test_a_model_that_is_not_trainable_is_refused(tmp_path):
    with pytest.raises(ModelError, match="export-trainable"):
        LiteRtTrainer(MODELS / "digits_dynamic.tflite", Data(digits(5), digits(5)))
