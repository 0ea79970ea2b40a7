"""One simulated client while it has something to do: the machine of a real one, and its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from collab.core.ids import Digest
from collab.federated import events as on
from collab.federated import participant as part
from collab.federated.orders import OrderId, Work
from collab.node.training_work import Product


class Surroundings(Protocol):
    """What a device needs of the world that it is in."""

    def now(self) -> float:
        """Seconds since the run began."""

    def tell(self, event: on.Event) -> None:
        """Send a message to the server."""

    def train(self, device: Device, order: OrderId, work: Work) -> None:
        """Have it trained; `Device.trained` is called when it is over."""


@dataclass
class Shelf:
    """Where all devices keep updates and states; files have their numbers, since names are foreign."""

    folder: Path

    def update(self, index: int) -> Path:
        """The last update, encoded."""
        return self.folder / f"{index}.update"

    def state(self, index: int) -> Path:
        """Error feedback and control variate."""
        return self.folder / f"{index}.state"

    def staged(self, index: int) -> Path:
        """What the state becomes when the last update is counted."""
        return self.folder / f"{index}.staged"


class Device:
    """A client that was asked at least once."""

    def __init__(self, index: int, name: str, shelf: Shelf, around: Surroundings) -> None:
        self.index = index
        self.name = name
        self.machine = part.Participant()
        self.seconds = 0.0
        """Of its last training."""
        self._shelf = shelf
        self._around = around

    def take(self, event: part.ClientEvent) -> None:
        """Let its machine handle an event, and do what it says."""
        for action in self.machine.handle(event, self._around.now()):
            _PERFORM[type(action)](self, action)

    def trained(self, order: OrderId, product: Product, seconds: float) -> None:
        """Training is over."""
        if self.machine.phase != "training" or self.machine.order != order:
            return  # it was called off meanwhile
        self._shelf.update(self.index).write_bytes(product.update)
        self._shelf.staged(self.index).write_bytes(product.state)
        self.seconds = seconds
        digest = Digest(hashlib.sha256(product.update).hexdigest())
        self.take(part.Finished(order, digest, len(product.update)))

    def update(self) -> bytes:
        """The encoded update, as the server fetches it."""
        return self._shelf.update(self.index).read_bytes()

    def state(self) -> bytes:
        """What it remembers from update to update."""
        with suppress(FileNotFoundError):
            return self._shelf.state(self.index).read_bytes()
        return b""

    def _accept(self, action: part.Accept) -> None:
        self._around.tell(on.Accepted(self.name, action.order))

    def _decline(self, action: part.Decline) -> None:
        self._around.tell(on.Declined(self.name, action.order, action.reason))

    def _train(self, action: part.Train) -> None:
        self._around.train(self, action.order, action.work)

    def _announce(self, action: part.Announce) -> None:
        self._around.tell(on.Announced(self.name, action.order, action.digest, action.bytes))

    def _tell(self, action: part.Tell) -> None:
        self._around.tell(on.Failed(self.name, action.order, action.reason))

    def _settle(self, action: part.Settle) -> None:
        staged = self._shelf.staged(self.index)
        with suppress(FileNotFoundError):
            if action.keep:
                os.replace(staged, self._shelf.state(self.index))
            else:
                staged.unlink()

    def _free(self, action: part.Free) -> None:
        self._shelf.update(self.index).unlink(missing_ok=True)

    def _nothing(self, action: part.ClientAction) -> None:
        """Stopping is seen when training ends, and simulated clients are not started again."""


_PERFORM: dict[type, Callable[..., None]] = {
    part.Accept: Device._accept,
    part.Decline: Device._decline,
    part.Train: Device._train,
    part.Stop: Device._nothing,
    part.Announce: Device._announce,
    part.Tell: Device._tell,
    part.Settle: Device._settle,
    part.Remember: Device._nothing,
    part.Free: Device._free,
}
