"""Server optimizers against their formulas, written out once more with plain numbers."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from collab.errors import ConfigError
from collab.federated.aggregate.server import (
    Adagrad,
    Adam,
    Momentum,
    ServerOptimizer,
    Sgd,
    State,
    Yogi,
    check_server,
    step,
)

MEANS = [0.5, -0.25, 0.125, 1.0, -2.0]
RATES = {Sgd: 1.0, Momentum: 0.5, Adam: 0.01, Yogi: 0.02, Adagrad: 0.1}


def expected(server: ServerOptimizer, start: float) -> float:
    weight, first, second, rate = start, 0.0, getattr(server, "initial", 0.0), server.learning_rate
    for count, mean in enumerate(MEANS, 1):
        g = -mean
        if isinstance(server, Sgd):
            weight -= rate * g
        elif isinstance(server, Momentum):
            first = server.momentum * first + g
            weight -= rate * first
        elif isinstance(server, Adagrad):
            second += g * g
            weight -= rate * g / math.sqrt(second + server.epsilon)
        else:
            first = server.beta_1 * first + (1 - server.beta_1) * g
            if isinstance(server, Adam):
                second = server.beta_2 * second + (1 - server.beta_2) * g * g
            else:
                second += (1 - server.beta_2) * math.copysign(1, g * g - second) * g * g
            scale = math.sqrt(1 - server.beta_2**count) / (1 - server.beta_1**count)
            weight -= rate * scale * first / (math.sqrt(second) + server.epsilon)
    return weight


@pytest.mark.parametrize("kind", RATES)
def test_five_rounds_follow_the_formula(kind):
    server = kind(learning_rate=RATES[kind])
    model = {"w": np.full(3, 2.0, np.float32), "s": np.float32(1).reshape(())}
    state: State = {}
    for mean in MEANS:
        model, state = step(server, model, {"w": np.full(3, mean), "s": np.array(mean)}, state)
    assert model["w"].dtype == np.float32
    assert model["w"] == pytest.approx(expected(server, 2.0), abs=1e-6)
    assert model["s"] == pytest.approx(expected(server, 1.0), abs=1e-6)
    assert int(state["step"]) == len(MEANS)


@pytest.mark.parametrize("kind", RATES)
def test_state_that_was_kept_goes_on_to_the_same_bits(kind):
    server, rng = kind(), np.random.default_rng(1)
    straight = resumed = {"w": rng.normal(size=8).astype(np.float32)}
    state: State = {}
    kept: State = {}
    for _ in range(4):
        mean = {"w": rng.normal(size=8)}
        straight, state = step(server, straight, mean, state)
        kept = {
            name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
            for name, array in kept.items()
        }
        resumed, kept = step(server, resumed, mean, kept)
    assert straight["w"].tobytes() == resumed["w"].tobytes()


def test_nothing_that_was_given_is_changed():
    model, mean = {"w": np.ones(2, np.float32)}, {"w": np.ones(2)}
    _, state = step(Adam(), model, mean, {})
    before = {name: array.copy() for name, array in state.items()}
    step(Adam(), model, mean, state)
    assert all((state[name] == before[name]).all() for name in state)
    assert model["w"].tolist() == [1, 1]


def test_state_of_another_optimizer_or_model_is_refused():
    mean = {"w": np.ones(2)}
    _, state = step(Momentum(), {"w": np.ones(2, np.float32)}, mean, {})
    with pytest.raises(ConfigError, match="first of 'w'"):
        step(Adam(), {"w": np.ones(2, np.float32)}, mean, state)
    with pytest.raises(ConfigError, match="velocity"):
        step(Momentum(), {"w": np.ones(3, np.float32)}, {"w": np.ones(3)}, state)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{optimizer: adam, beta_1: 1.0}", "beta_1"),
        ("{optimizer: momentum, momentum: -0.1}", "momentum"),
        ("{optimizer: sgd, learning_rate: 0.0}", "learning_rate"),
        ("{optimizer: yogi, epsilon: .nan}", "epsilon"),
        ("{optimizer: adagrad, initial: .inf}", "initial"),
    ],
)
def test_numbers_that_make_no_sense_are_named(text, field):
    with pytest.raises(ConfigError, match=rf"aggregation\.server\.{field}"):
        check_server(msgspec.yaml.decode(text, type=ServerOptimizer))
