"""Who trains for simulated clients: this process, processes on all cores, or a Dask cluster.

What is asked for may come back in any order; the world waits for what it needs next.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, Union

from collab.core.ids import Digest
from collab.emulation.fleet.holdings import Holdings
from collab.emulation.sweeps import dask_client
from collab.errors import CollabError, InputError
from collab.node.training_config import TrainingConfig
from collab.node.training_files import Made
from collab.node.training_thread import Guard
from collab.node.training_work import Enrolled, Job, Product, evaluate, train


@dataclass(frozen=True)
class Errand:
    """One training or one evaluation."""

    client: int | None
    """None: the server's own evaluation."""
    model: Digest
    weights: Path
    """The model's exact form."""
    job: Job | None = None
    """None: an evaluation."""


Outcome = Union[Product, Made, CollabError]
Ticket = int


class Labour(Protocol):
    """Works off errands."""

    def submit(self, ticket: Ticket, errand: Errand) -> None:
        """Begin one, or keep it for later."""

    def next(self) -> tuple[Ticket, Outcome]:
        """Whatever is ready next; blocks.  Errors of trainers are outcomes, all others are raised."""

    def ready(self, timeout_s: float) -> tuple[Ticket, Outcome] | None:
        """The same, or None if nothing is ready in time."""


def run_errand(errand: Errand, holdings: Holdings) -> Outcome:
    """Do one here, by the code that nodes run."""
    try:
        if errand.client is None:
            trainer = holdings.judge()
            if trainer is None:
                raise InputError("evaluation.where: the server has no held-out examples; give --test")
        else:
            trainer = holdings.trainer(errand.client)
        size = 0 if errand.client is None else holdings.sizes[errand.client]
        enrolled = Enrolled(trainer, size)
        if errand.job is None:
            return evaluate(enrolled, errand.weights)
        return train(errand.job, enrolled, Guard(TrainingConfig(data="simulated")))
    except CollabError as error:
        return error


class Here:
    """In this process, when the outcome is asked for."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._waiting: list[tuple[Ticket, Errand]] = []

    def submit(self, ticket: Ticket, errand: Errand) -> None:
        """See `Labour`."""
        self._waiting.append((ticket, errand))

    def next(self) -> tuple[Ticket, Outcome]:
        """See `Labour`."""
        ticket, errand = self._waiting.pop(0)
        return ticket, run_errand(errand, self._holdings)

    def ready(self, timeout_s: float) -> tuple[Ticket, Outcome] | None:
        """See `Labour`."""
        return self.next() if self._waiting else None


class _Elsewhere:
    """Futures of others, in the order in which they are done."""

    def __init__(self, begin: Callable[[Errand], Any]) -> None:
        self._begin = begin
        self._done: SimpleQueue[tuple[Ticket, Any]] = SimpleQueue()
        self._open: dict[Ticket, Any] = {}

    def submit(self, ticket: Ticket, errand: Errand) -> None:
        future = self._begin(errand)
        self._open[ticket] = future  # Dask drops what nobody refers to
        future.add_done_callback(lambda done: self._done.put((ticket, done)))

    def next(self) -> tuple[Ticket, Outcome]:
        return self._taken(*self._done.get())

    def ready(self, timeout_s: float) -> tuple[Ticket, Outcome] | None:
        from queue import Empty

        try:
            return self._taken(*self._done.get(timeout=timeout_s))
        except Empty:
            return None

    def _taken(self, ticket: Ticket, future: Any) -> tuple[Ticket, Outcome]:
        del self._open[ticket]
        outcome: Outcome = future.result()
        return ticket, outcome


_holdings: Holdings | None = None
"""Of a worker process."""


def _equip(holdings: Holdings) -> None:
    global _holdings
    _holdings = holdings
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that started this one


def _run_equipped(errand: Errand) -> Outcome:
    assert _holdings is not None
    return run_errand(errand, _holdings)


@contextmanager
def on_cores(holdings: Holdings, count: int) -> Iterator[Labour]:
    """So many processes of this machine."""
    # Not forked: the parent may have threads.
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_equip, initargs=(holdings,)) as pool:

        def begin(errand: Errand) -> Future[Outcome]:
            return pool.submit(_run_equipped, errand)

        try:
            yield _Elsewhere(begin)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def on_dask(holdings: Holdings, address: str) -> Iterator[Labour]:
    """A Dask cluster: that of a scheduler's address, or one of this machine's cores for ``local``.

    The holdings' files have to be at the same place on its machines; weights are sent.
    """
    with dask_client(address) as client:
        shared = client.scatter(holdings, broadcast=True)
        sent: dict[Digest, Any] = {}

        def scattered(path: Path) -> Any:
            digest = Digest(path.name)
            if digest not in sent:
                for old in list(sent)[:-3]:
                    del sent[old]
                sent[digest] = client.scatter(path.read_bytes(), broadcast=True)
            return sent[digest]

        def begin(errand: Errand) -> Any:
            control = errand.job.control if errand.job is not None else None
            more = scattered(control) if control is not None else None
            return client.submit(_run_sent, errand, shared, scattered(errand.weights), more, pure=False)

        yield _Elsewhere(begin)


def _run_sent(errand: Errand, holdings: Holdings, weights: bytes, control: bytes | None) -> Outcome:
    """An errand whose files are somebody else's: they are written here first."""
    path = _file_of(errand.weights.name, weights)
    job = errand.job
    if job is not None:
        kept = _file_of(job.control.name, control) if job.control is not None and control else None
        job = replace(job, weights=path, control=kept)
    return run_errand(replace(errand, weights=path, job=job), holdings)


@lru_cache(maxsize=1)
def _scratch() -> Path:
    """Of this process; it goes with it."""
    folder = tempfile.mkdtemp(prefix="collab-fleet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _file_of(name: str, data: bytes) -> Path:
    folder = _scratch()
    path = folder / name
    if not path.exists():
        for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-3]:
            old.unlink()
        path.write_bytes(data)
    return path
