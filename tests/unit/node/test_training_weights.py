"""Weights of federated runs in a node's store: no more than so many, and those of the latest run stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from collab.core.ids import Digest
from collab.errors import StoreError
from collab.federated.compression.settings import Compression
from collab.federated.orders import MAX_HELD_MODELS, OrderId, Work
from collab.federated.update import LocalTraining
from collab.node.store import Store
from collab.node.training_files import TrainingFiles
from collab.node.training_offer import Ask
from collab.node.training_weights import TrainingWeights


class Site:
    """A store, and the weights in it."""

    def __init__(self, store: Store) -> None:
        self.store, self.files = store, TrainingFiles(store.training)
        self.weights = self.again()

    def again(self) -> TrainingWeights:
        return TrainingWeights(self.store, self.files, asyncio.to_thread, lambda: [])

    async def put(self, data: bytes) -> Digest:
        return await asyncio.to_thread(self.store.add, data, ())

    async def digests(self) -> set[Digest]:
        return set(await asyncio.to_thread(self.store.digests))


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    store = await asyncio.to_thread(Store, tmp_path)
    yield Site(store)
    store.close()


def ask(round_: int, trainable: Digest, model: Digest, run: str = "run") -> Ask:
    work = Work(model=model, training=LocalTraining(), deadline_s=9.0)
    return Ask(OrderId(run, round_), False, trainable, work, Compression())


async def test_the_oldest_weights_of_a_run_go_and_the_trainable_model_stays(site):
    trainable = await site.put(b"trainable")
    models = [await site.put(b"%d" % number) for number in range(MAX_HELD_MODELS + 2)]
    for number, model in enumerate(models):
        await site.weights.restore(ask(number, trainable, model), ())
    assert await site.weights.held("run") == models[2:] == site.weights.latest
    assert await site.digests() == {trainable, *models[2:]}
    assert await site.again().held("run") == models[2:]


async def test_weights_that_are_gone_from_the_store_are_not_held(site):
    trainable, model, other = [await site.put(data) for data in (b"trainable", b"one", b"two")]
    for number, digest in enumerate((model, other)):
        await site.weights.restore(ask(number, trainable, digest), ())
    await asyncio.to_thread(site.store.drop, [model])
    assert await site.weights.held("run") == [other]
    with pytest.raises(StoreError, match="send them"):
        await site.weights.restore(ask(2, trainable, model), ())
    assert await site.weights.read(other) == b"two"


async def test_a_run_that_is_over_holds_nothing_and_another_goes_on(site):
    trainable, model = [await site.put(data) for data in (b"trainable", b"one")]
    await site.weights.restore(ask(1, trainable, model), ())
    site.weights.forget("other")
    assert site.weights.latest == [model]
    site.weights.forget("run")
    assert site.weights.latest == []
