"""Weights of federated runs in a node's store: which are there, and how those that come get in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from collab.core.ids import Digest
from collab.errors import NotLoaded, StoreError
from collab.federated.orders import MAX_HELD_MODELS
from collab.node.store import Store
from collab.node.training_files import TrainingFiles
from collab.node.training_offer import Ask
from collab.node.training_work import Part, restore

OffLoop = Callable[..., Awaitable[Any]]


class TrainingWeights:
    """Those of the latest run stay; the oldest go when there are too many.

    Args:
        used: All blobs that must stay in the store now.
    """

    def __init__(
        self, store: Store, files: TrainingFiles, off_loop: OffLoop, used: Callable[[], list[Digest]]
    ) -> None:
        self._store = store
        self._files = files
        self._off_loop = off_loop
        self._used = used
        self._restoring = asyncio.Lock()
        """Training and evaluation may be sent one blob, which goes when it has been read."""
        self._run = ""
        self._latest: list[Digest] = []
        """Of that run, the newest last."""

    @property
    def latest(self) -> Sequence[Digest]:
        """Weights of the latest run; they must stay in the store."""
        return self._latest

    def forget(self, run: str) -> None:
        """The run is over: its weights need not stay."""
        if self._run == run:
            self._run, self._latest = "", []

    async def path(self, digest: Digest) -> Path:
        """The file of a blob; raises what `Store.path` does."""
        path: Path = await self._off_loop(self._store.path, digest)
        return path

    async def read(self, digest: Digest) -> bytes:
        """A blob; raises what `Store.path` does."""
        data: bytes = await self._off_loop((await self.path(digest)).read_bytes)
        return data

    async def holding(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those that are complete in the store, by one job off the loop."""
        held: Any = await self._off_loop(lambda: [self._store.held(digest)[1] for digest in digests])
        return {digest for digest, complete in zip(digests, held, strict=True) if complete}

    async def held(self, run: str) -> list[Digest]:
        """Weights of a run that are in the store; the run is the latest one from now on."""
        if self._run != run:
            self._run, self._latest = run, await self._off_loop(self._files.holds, run)
        named, holding = self._latest, await self.holding(self._latest)
        kept = [digest for digest in named if digest in holding]
        self._run, self._latest = run, kept
        return kept

    async def restore(self, ask: Ask, parts: Sequence[Part]) -> None:
        """Decode what came, check it against its digest, and keep it; drop what is old by now.

        Raises `NotLoaded` for weights that the order does not name, `StoreError` where some lack,
        `IntegrityError` for a blob that stands for others.
        """
        async with self._restoring:
            holding = await self.holding(ask.blobs)
            await self._keep_parts(ask, parts, holding)
            lacking = [digest for digest in ask.blobs if digest not in holding]
            if lacking:
                raise StoreError(f"weights {lacking[0][:12]}: not in the store; send them")
            await self._drop_old(ask)

    async def _keep_parts(self, ask: Ask, parts: Sequence[Part], holding: set[Digest]) -> None:
        wanted = set(ask.blobs)
        for part in parts:
            if part.weights not in wanted:
                raise NotLoaded(f"weights {part.weights[:12]}: not what the order names")
            if part.weights not in holding:
                blob = await self.path(part.blob)
                base = await self.path(part.base) if part.base is not None else None
                data = await asyncio.to_thread(restore, part, blob, base)
                holding.add(await self._off_loop(self._store.add, data, self._used()))
            if part.blob != part.weights:
                await self._off_loop(self._store.drop, [part.blob])

    async def _drop_old(self, ask: Ask) -> None:
        run = ask.order.run
        named = [digest for digest in ask.blobs if digest != ask.trainable]
        holds = [digest for digest in await self.held(run) if digest not in named] + named
        old, new = holds[:-MAX_HELD_MODELS], holds[-MAX_HELD_MODELS:]
        if new != self._latest:
            self._run, self._latest = run, new
            await self._off_loop(self._files.keep_holds, run, new)
        await self._off_loop(self._store.drop, old)
