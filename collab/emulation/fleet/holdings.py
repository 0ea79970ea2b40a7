"""What each simulated client holds, and the trainer that it trains with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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


class _Opened:
    """What one process has open of them; it does not travel."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.engine = LiteRtEngine(model)
        """One for all clients: it keeps nothing from step to step."""
        self._folder = folder
        self._mapped: dict[str, NDArray[Any]] = {}

    def array(self, name: str) -> NDArray[Any]:
        """A file of the folder, mapped."""
        if name not in self._mapped:
            path = self._folder / f"{name}.npy"
            try:
                self._mapped[name] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read: {error}") from error
        return self._mapped[name]


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

    @cached_property
    def _opened(self) -> _Opened:
        return _Opened(self.model, self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def initial(self) -> Parameters:
        """See `Holdings`."""
        return self._opened.engine.initial

    def trainer(self, client: int) -> Trainer:
        """See `Holdings`."""
        rows, opened = self.part.rows[client], self._opened
        examples = Examples(opened.array("x")[rows], opened.array("y")[rows], self.scale)
        return LocalTrainer(opened.engine, split(examples, self.held_out))

    def judge(self) -> Trainer | None:
        """See `Holdings`."""
        if not (self.folder / "test_x.npy").exists():
            return None
        opened = self._opened
        test = Examples(opened.array("test_x"), opened.array("test_y"), self.scale)
        # A trainer wants something to train on; only the held-out part is looked at.
        return LocalTrainer(opened.engine, Data(test.first(1), test))
