"""What the server makes of a round's updates, single or summed, with noise and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collab.core.ids import Digest
from collab.errors import ConfigError, IntegrityError, ProtocolError
from collab.federated.actions import Aggregate
from collab.federated.aggregate.settings import Aggregation
from collab.federated.compression.settings import Compression
from collab.federated.compression.updates import encode_update
from collab.federated.disk import Folder
from collab.federated.entries import Counted
from collab.federated.exchange import pack_arrays
from collab.federated.journal import Blobs
from collab.federated.orders import OrderId
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.masking import Masking
from collab.federated.server_work import Rules, ServerWork
from collab.federated.sums import MeanOfSum, pack_sum, unpack_sum
from collab.federated.task import Privacy, SecureAggregation
from collab.federated.update import Update

MODEL = {"w": np.zeros((40, 3), np.float32), "b": np.ones(4, np.float32)}
SHAPES = {name: array.shape for name, array in MODEL.items()}
UNIFORM = Aggregation(weighting="uniform")


def updates(count=5):
    rng = np.random.default_rng(1)
    return [
        Update(
            round=1,
            client=f"c{number}",
            samples=10 + number,
            delta={name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()},
        )
        for number in range(count)
    ]


class Server:
    """A server's folder, and its next incarnation."""

    def __init__(self, folder: Path, rules: Rules) -> None:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.folder, self.blobs = folder, Blobs(Folder(folder / "blobs"))
        self.work = ServerWork(rules, self.blobs, folder)
        self.first, _ = self.work.put_model(MODEL)

    def action(self, expected: int = 0, total: Digest | None = None, state: Digest | None = None):
        counted = []
        for update in updates():
            data, _ = encode_update(update, Compression(), {}, np.random.default_rng(0))
            digest = self.blobs.put(data)
            order = OrderId("run", 1)
            told = {"samples": update.samples, "norm": 1.0, "loss": None, "seconds": 1.0}
            counted.append(
                Counted(
                    client=update.client, order=order, digest=digest, down_bytes=0, up_bytes=len(data), **told
                )
            )
        return Aggregate(1, self.first, state, None, tuple(counted), expected, total)

    def moved(self, action: Aggregate):
        made = self.work.aggregate(action, 5, 0)
        return {name: self.work.model(made.model)[name] - MODEL[name] for name in MODEL}


def private(noise_multiplier=1.0, adaptive=False):
    return Privacy(clip=0.5, noise_multiplier=noise_multiplier, adaptive=adaptive)


def masked(server: Server, state: Digest | None = None) -> Digest:
    """The sum of all updates as it is opened."""
    masking, length = server.work.masking(server.first, state)
    vectors = [masking.vector(update.delta, update.samples) for update in updates()]
    assert {len(vector) for vector in vectors} == {length}
    return server.work.keep_sum(server.first, state, np.add.reduce(vectors), len(vectors))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("secure", [None, SecureAggregation()])
def test_a_restart_adds_the_same_noise_and_another_release_other_noise(tmp_path, secure, adaptive):
    rules = Rules(aggregation=UNIFORM, privacy=private(adaptive=adaptive), secure=secure)
    server = Server(tmp_path / "one", rules)
    total = masked(server) if secure is not None else None
    first = server.work.aggregate(server.action(5, total), 5, 0)
    again = Server(tmp_path / "one", rules)
    assert again.work.aggregate(again.action(5, total), 5, 0) == first
    other = Server(tmp_path / "other", rules)
    total = masked(other) if secure is not None else None
    assert other.work.aggregate(other.action(5, total), 5, 0).model != first.model


def test_noisy_sums_are_divided_by_the_updates_that_were_wanted(tmp_path):
    server = Server(tmp_path, Rules(aggregation=UNIFORM, privacy=private(noise_multiplier=1e-9)))
    all_came, half_came = server.moved(server.action(5)), server.moved(server.action(10))
    for name in MODEL:
        np.testing.assert_allclose(all_came[name], 2 * half_came[name], atol=1e-6)


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_an_opened_sum_moves_the_model_as_single_updates_do(tmp_path, weighting):
    rules = Rules(aggregation=Aggregation(weighting=weighting), secure=SecureAggregation())
    server = Server(tmp_path, rules)
    summed, single = server.moved(server.action(5, masked(server))), server.moved(server.action(5))
    for name in MODEL:
        np.testing.assert_allclose(summed[name], single[name], atol=1e-6)


def test_a_sum_that_no_honest_clients_can_have_made_is_refused(tmp_path):
    server = Server(tmp_path, Rules(secure=SecureAggregation()))
    _, length = server.work.masking(server.first, None)
    total = np.zeros(length, np.uint64)
    with pytest.raises(ProtocolError, match="counts 0 samples"):
        server.work.keep_sum(server.first, None, total, 3)
    total[0], total[-1] = 1 << 62, 30
    with pytest.raises(ProtocolError, match="over 16 on average"):
        server.work.keep_sum(server.first, None, total, 3)


@pytest.mark.parametrize("bits", [32, 64])
def test_sums_come_back_from_their_blobs(bits):
    masking = Masking(encoding=Encoding(bits, fraction_bits=10, limit=1.0, max_samples=4))
    total = np.add.reduce(
        [masking.vector({"w": np.float32([0.5, -1.0])}, samples) for samples in (1, 4)],
        dtype=masking.encoding.type,
    )
    vector, clients = unpack_sum(pack_sum(masking, {"w": (2,)}, total, 2), masking.encoding)
    assert (vector.dtype, clients) == (total.dtype, 2)
    assert (vector == total).all()
    mean = MeanOfSum(masking, {"w": (2,)}, vector, clients)
    assert mean.combined()["w"].tolist() == [0.5, -1.0]
    with pytest.raises(ConfigError, match="single update"):
        mean.add(updates(1)[0], 1)
    with pytest.raises(IntegrityError, match="something else"):
        unpack_sum(pack_arrays({"w": np.zeros(2)}), masking.encoding)
