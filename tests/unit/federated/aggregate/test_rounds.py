"""One round from updates to the next model, in any order, over gateways, with every combiner."""

from __future__ import annotations

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import ConfigError, LimitExceeded, TensorError
from collab.federated.aggregate.combine import Block, Mean, nearest
from collab.federated.aggregate.fixed import shapes_of
from collab.federated.aggregate.rounds import RoundAggregator, controls
from collab.federated.aggregate.server import Momentum, Sgd
from collab.federated.aggregate.settings import Aggregation
from collab.federated.aggregate.transforms import clip, norm
from collab.federated.compression.models import decode_model, encode_model
from collab.federated.spool import DiskSpool, MemorySpool
from collab.federated.update import LocalTraining, Parameters, Update

MODEL = {"w": np.float32([[1, 2], [3, 4]]), "b": np.float32([5])}


def update(client, w, samples=1, **fields):
    delta = {"w": np.full((2, 2), w, np.float32), "b": np.full(1, -w, np.float32)}
    return Update(0, client, samples, delta, **fields)


def run(settings, updates, **given_too):
    spool = MemorySpool() if settings.robust else None
    aggregator = RoundAggregator(settings.check(), MODEL, spool=spool, **given_too)
    for one in updates:
        aggregator.add(one)
    return aggregator.finish()


def moved(weights):
    return float(weights["b"][0] - 5) * -1


def test_fedavg_weighs_by_samples():
    assert moved(run(Aggregation(), [update("a", 1, 1), update("b", 4, 2)])) == 3
    assert moved(run(Aggregation(weighting="uniform"), [update("a", 1, 1), update("b", 4, 2)])) == 2.5


def test_a_late_update_counts_less():
    late = Aggregation(staleness_exponent=1.0)
    assert moved(run(late, [update("a", 1), update("b", 4, staleness=2)])) == pytest.approx(7 / 4, abs=1e-6)
    even = Aggregation(staleness_exponent=0.0)
    assert moved(run(even, [update("a", 1), update("b", 4, staleness=2)])) == 2.5


def test_fedbuff_divides_by_the_number_of_updates():
    buffered = Aggregation(rule="fedbuff", staleness_exponent=0.5)
    updates = [update("a", 1, 7), update("b", 4, 9, staleness=3)]
    assert moved(run(buffered, updates)) == pytest.approx((1 + 4 / 2) / 2, abs=1e-6)


def test_clipping_scales_to_the_norm_and_leaves_small_ones():
    big = update("a", 3.0)
    assert norm(clip(big, 1.0).delta) == pytest.approx(1.0, rel=1e-6)
    assert clip(big, 100.0) is big
    clipped = Aggregation(clip_norm=np.sqrt(5.0))
    assert moved(run(clipped, [update("a", 100.0), update("b", 1.0)])) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("rule", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_a_rule_brings_its_server_optimizer_and_its_state_goes_on(rule):
    settings = Aggregation(rule=rule)
    model: Parameters = MODEL
    state: Parameters = {}
    for _ in range(3):
        aggregator = RoundAggregator(settings, model, state)
        aggregator.add(update("a", 1.0))
        model, state = aggregator.finish(), aggregator.state()
    assert int(state["step"]) == 3
    assert moved(model) > 0
    assert Aggregation(rule=rule, server=Sgd()).optimizer == Sgd()


def test_scaffold_moves_the_servers_control_by_the_share_that_took_part():
    change = {name: np.full_like(array, 2.0) for name, array in MODEL.items()}
    aggregator = RoundAggregator(Aggregation(rule="scaffold"), MODEL, clients=8)
    for client, samples in (("a", 1), ("b", 99)):
        aggregator.add(update(client, 1.0 + samples, samples, control=change))
    assert moved(aggregator.finish()) == 51
    assert all((array == 0.5).all() for array in controls(MODEL, aggregator.state()).values())
    with pytest.raises(TensorError):
        RoundAggregator(Aggregation(rule="scaffold"), MODEL).add(update("a", 1.0))


def test_another_combiner_takes_the_updates_in_the_place_of_the_mean():
    class Thrice(Mean):
        def combined(self):
            return {name: array * 3 for name, array in super().combined().items()}

    settings = Aggregation(server=Momentum(learning_rate=2.0))
    aggregator = RoundAggregator(settings, MODEL, combiner=Thrice(shapes_of(MODEL)))
    aggregator.add(update("a", 1.0))
    assert moved(aggregator.finish()) == 6
    with pytest.raises(ConfigError, match="partial sums"):
        aggregator.partial()


SETTINGS = [
    Aggregation(),
    Aggregation(rule="scaffold"),
    Aggregation(rule="fedadam", clip_norm=1.0),
    Aggregation(combine="median"),
    Aggregation(combine="trimmed-mean", trim=0.3),
    Aggregation(combine="krum"),
    Aggregation(combine="multi-krum"),
]


@given(st.sampled_from(SETTINGS), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_a_bit(settings, seed, random):
    rng = np.random.default_rng(seed)

    def drawn():
        return {name: rng.normal(size=array.shape).astype(np.float32) for name, array in MODEL.items()}

    updates = [
        Update(0, f"c{number}", int(rng.integers(1, 99)), drawn(), drawn() if settings.controls else {})
        for number in range(6)
    ]
    plain = run(settings, updates)
    random.shuffle(updates)
    shuffled = run(settings, updates)
    assert all(plain[name].tobytes() == shuffled[name].tobytes() for name in MODEL)


@pytest.mark.parametrize("settings", [s for s in SETTINGS if not s.robust], ids=lambda s: s.rule)
def test_gateways_give_the_bits_of_a_flat_round(settings):
    rng = np.random.default_rng(2)
    updates = [
        Update(
            0,
            f"c{n}",
            10 + n,
            *({k: rng.normal(size=v.shape).astype("f4") for k, v in MODEL.items()} for _ in "dc"),
        )
        for n in range(5)
    ]
    flat = run(settings, updates, clients=5)
    server = RoundAggregator(settings, MODEL, clients=5)
    for group in (updates[3:], updates[1:3]):
        gateway = RoundAggregator(settings, MODEL)
        for one in group:
            gateway.add(one)
        server.merge(gateway.partial())
    server.add(updates[0])
    assert all(flat[name].tobytes() == array.tobytes() for name, array in server.finish().items())


def test_a_gateway_cannot_weigh_more_than_its_clients_enrolled_with():
    gateway, server = RoundAggregator(Aggregation(), MODEL), RoundAggregator(Aggregation(), MODEL)
    gateway.add(update("a", 1.0, samples=30))
    with pytest.raises(LimitExceeded, match="enrolled"):
        server.merge(gateway.partial(), most_weight=29)
    server.merge(gateway.partial(), most_weight=30)
    assert moved(server.finish()) == 1


@pytest.mark.parametrize("rule", ["fedavgm", "fedyogi", "scaffold"])
def test_state_is_kept_as_a_model_is(rule):
    straight = RoundAggregator(Aggregation(rule=rule), MODEL)
    straight.add(update("a", 1.0, control=MODEL if rule == "scaffold" else {}))
    straight.finish()
    kept = decode_model(encode_model(straight.state()).data)
    assert kept.keys() == straight.state().keys()
    assert all(isinstance(array, np.ndarray) for array in straight.state().values())
    assert all(kept[name].tobytes() == array.tobytes() for name, array in straight.state().items())


def test_robust_rules_have_no_partial_sums_and_need_a_spool():
    with pytest.raises(ConfigError, match="spool"):
        RoundAggregator(Aggregation(combine="median"), MODEL)
    with pytest.raises(ConfigError, match="partial sums"):
        RoundAggregator(Aggregation(combine="median"), MODEL, spool=MemorySpool()).partial()


@pytest.mark.parametrize("combine", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_two_bad_clients_of_ten_cannot_move_a_robust_rule_far(combine):
    good = [update(f"g{number}", 1.0 + 0.01 * number) for number in range(8)]
    bad = [update("x", 1e4), update("y", -1e4)]
    robust = Aggregation(combine=combine, trim=0.2, byzantine=2)
    assert 0.9 < moved(run(robust, [*bad, *good])) < 1.1
    assert abs(moved(run(Aggregation(), [update("x", 1e4), *good]))) > 100


@given(st.integers(1, 7), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.25, 0.49]))
def test_median_and_trimmed_mean_are_those_of_numpy(count, seed, trim):
    rng = np.random.default_rng(seed)
    drawn = [{k: rng.normal(size=v.shape).astype("f4") for k, v in MODEL.items()} for _ in range(count)]
    updates = [Update(0, f"c{number}", 1, delta) for number, delta in enumerate(drawn)]
    for settings in (Aggregation(combine="median"), Aggregation(combine="trimmed-mean", trim=trim)):
        weights = run(settings, updates)
        for name, start in MODEL.items():
            stacked = np.sort(np.stack([delta[name] for delta in drawn]).astype(np.float64), axis=0)
            cut = int(trim * count)
            kept = (
                np.median(stacked, 0) if settings.combine == "median" else stacked[cut : count - cut].mean(0)
            )
            np.testing.assert_allclose(weights[name], start + kept, rtol=1e-6)


def test_krum_ranks_by_the_nearest_neighbours_in_blocks_as_a_whole():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(7, 50))
    rows[2] += 10
    spool = MemorySpool()
    for row in rows:
        spool.append(row)
    apart = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    scores = [np.sort(apart[row])[1 : 7 - 1 - 2 + 1].sum() for row in range(7)]
    for block_bytes in (1, 7 * 8 * 3, 1 << 20):
        ranked = nearest(Block(spool, list(range(7)), 50, block_bytes), byzantine=1)
        assert ranked == list(np.argsort(scores))
        assert ranked[-1] == 2


def test_too_few_updates_for_krum_are_named():
    with pytest.raises(ConfigError, match="needs 5 updates and 4 came"):
        run(Aggregation(combine="krum"), [update(f"c{number}", 1.0) for number in range(4)])
    assert Aggregation(combine="multi-krum", byzantine=2, keep=9).least == 9


def test_a_disk_spool_holds_blocks_and_not_rows(tmp_path):
    size, rows = 60_000, 40
    model = {"w": np.zeros(size, np.float32)}
    rng = np.random.default_rng(1)
    with DiskSpool(tmp_path) as spool:
        aggregator = RoundAggregator(Aggregation(combine="median"), model, spool=spool)
        tracemalloc.start()
        try:
            for number in range(rows):
                aggregator.add(Update(0, f"c{number}", 1, {"w": rng.random(size, np.float32)}))
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 4 * size
        assert peak < 16 * size
        assert list(tmp_path.iterdir()) == []
        assert 0.49 < float(aggregator.finish()["w"].mean()) < 0.51


def test_what_the_sum_cannot_hold_is_refused_and_the_round_goes_on():
    aggregator = RoundAggregator(Aggregation(), MODEL)
    aggregator.add(update("a", 1.0))
    with pytest.raises(LimitExceeded):
        aggregator.add(update("b", np.nan))
    assert moved(aggregator.finish()) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"trim": 0.5}, "trim"),
        ({"byzantine": -1}, "byzantine"),
        ({"keep": 0}, "keep"),
        ({"staleness_exponent": -1.0}, "staleness_exponent"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, field):
    with pytest.raises(ConfigError, match=rf"aggregation\.{field}"):
        Aggregation(**changes).check()


def test_rules_that_need_something_of_the_clients_say_so():
    Aggregation(rule="fedprox").check(LocalTraining(proximal=0.1))
    with pytest.raises(ConfigError, match=r"training\.proximal"):
        Aggregation(rule="fedprox").check(LocalTraining())
    with pytest.raises(ConfigError, match=r"training\.optimizer"):
        Aggregation(rule="scaffold").check(LocalTraining(optimizer="adam"))


def test_every_order_of_three_is_one_outcome():
    updates = [update("a", 0.1, 3), update("b", 1e-9, 7), update("c", -3e4, 11)]
    assert len({run(Aggregation(), order)["w"].tobytes() for order in permutations(updates)}) == 1
