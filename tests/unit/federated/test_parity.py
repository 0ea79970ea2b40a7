"""The aggregation rules beside values that tensorflow-federated made (simulations/parity.py)."""

import numpy as np
import pytest

from collab.federated.update import LocalTraining
from simulations import parity
from simulations.dense import DenseTrainer, initial_dense


@pytest.fixture(scope="module")
def found():
    return parity.differences(*parity.load())


@pytest.mark.parametrize("algorithm", parity.SERVERS)
def test_five_rounds_of_eight_clients_end_where_the_reference_does(found, algorithm):
    apart, moved = found[algorithm]
    assert apart <= parity.WITHIN < moved / 1000


def test_the_stored_problem_is_the_one_that_the_script_makes():
    given, _ = parity.load()
    made = parity.problem()
    assert given.keys() == made.keys()
    for name, value in made.items():
        assert np.array_equal(given[name], value), name
    sizes = [len(given[f"labels/{client}"]) for client in range(parity.CLIENTS)]
    assert max(sizes) > 2 * min(sizes)  # so weights by samples matter


def test_the_comparison_sees_a_rule_that_is_not_the_references(monkeypatch):
    given, answer = parity.load()
    monkeypatch.setitem(parity.SERVERS, "fedavgm", parity.SERVERS["fedavg"])
    assert parity.differences({**given, "algorithms": np.array(["fedavgm"])}, answer)["fedavgm"][0] > 1e-3


def test_the_numpy_trainer_descends_the_slope_of_its_loss():
    rng = np.random.default_rng(2)
    trainer = DenseTrainer(
        initial_dense((6, 5, 3), 1),
        rng.normal(size=(12, 6)).astype(np.float32),
        rng.integers(0, 3, 12),
        False,
    )
    rate = 1e-3
    one = trainer.train(trainer.initial, LocalTraining(batch_size=12, learning_rate=rate))
    for name, start in trainer.initial.items():
        slope = (start - one.parameters[name]) / rate
        for place in list(np.ndindex(start.shape))[:6]:
            sides = []
            for side in (1e-3, -1e-3):
                moved = {n: v.astype(np.float64) for n, v in trainer.initial.items()}
                moved[name][place] += side
                sides.append(trainer.evaluate(moved)["loss"])
            assert slope[place] == pytest.approx((sides[0] - sides[1]) / 2e-3, abs=2e-3), (name, place)
