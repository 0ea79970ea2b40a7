"""What each simulated client holds, and the trainer that it trains with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError
from collab.federated.base import Trainer
from collab.federated.data.examples import Data, Examples, split
from collab.federated.partition import Partition
from collab.federated.trainers.litert import LiteRtEngine
from collab.federated.trainers.local import LocalTrainer
from collab.federated.update import Parameters


class Holdings(Protocol):
    """All clients' data.  It travels to worker processes, so what is large in it is on disk."""

    @property
    def owners(self) -> Sequence[str]:
        """The clients' names."""

    @property
    def sizes(self) -> Sequence[int]:
        """Examples that each trains on."""

    def initial(self) -> Parameters:
        """The weights that the run begins with."""

    def trainer(self, client: int) -> Trainer:
        """One client's."""

    def judge(self) -> Trainer | None:
        """Measures on the server's own held-out examples; None where it has none."""


@dataclass(frozen=True)
class LiteRtHoldings:
    """Parts of one array on disk, trained on the LiteRT runtime.

    ``folder`` has ``x.npy`` and ``y.npy``, and ``test_x.npy`` and ``test_y.npy`` where the server
    evaluates.  They are mapped, so that all processes of a machine share one copy.
    """

    model: Path
    folder: Path
    part: Partition
    held_out: float
    """Share of each client's examples that it evaluates on."""
    scale: float = 1.0

    @property
    def owners(self) -> Sequence[str]:
        """See `Holdings`."""
        return self.part.owners

    @property
    def sizes(self) -> Sequence[int]:
        """See `Holdings`."""
        apart = [round(n * self.held_out) if n > 1 else 0 for n in map(len, self.part.rows)]
        return [len(rows) - held for rows, held in zip(self.part.rows, apart, strict=True)]

    def initial(self) -> Parameters:
        """See `Holdings`."""
        return _engine(self.model).initial

    def trainer(self, client: int) -> Trainer:
        """See `Holdings`."""
        rows = self.part.rows[client]
        x, y = _mapped(self.folder / "x.npy"), _mapped(self.folder / "y.npy")
        data = split(Examples(x[rows], y[rows], self.scale), self.held_out)
        return LocalTrainer(_engine(self.model), data)

    def judge(self) -> Trainer | None:
        """See `Holdings`."""
        if not (self.folder / "test_x.npy").exists():
            return None
        x, y = _mapped(self.folder / "test_x.npy"), _mapped(self.folder / "test_y.npy")
        # A trainer wants something to train on; only the held-out part is looked at.
        return LocalTrainer(
            _engine(self.model), Data(Examples(x[:1], y[:1], self.scale), Examples(x, y, self.scale))
        )


@lru_cache(maxsize=2)
def _engine(model: Path) -> LiteRtEngine:
    """One interpreter for all clients of a process: it keeps nothing from step to step."""
    return LiteRtEngine(model)


@lru_cache(maxsize=8)
def _mapped(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return found
