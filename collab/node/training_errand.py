"""An order on a node, and where it stands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest
from collab.federated.children import child_message
from collab.federated.orders import OrderId
from collab.node.training_files import Made
from collab.node.training_offer import Ask
from collab.node.training_thread import Guard


@dataclass
class Errand:
    """To train, or to evaluate."""

    order: OrderId
    ask: Ask | None
    """None for one from before a restart."""
    state: str
    reason: str = ""
    guard: Guard | None = None
    made: Made = Made()
    update: Digest | None = None
    update_bytes: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, state: str, reason: str = "") -> None:
        """It is done or failed; the first word counts."""
        if not self.over.is_set():
            self.state, self.reason = state, reason
            self.over.set()

    def announce(self, digest: Digest, size: int) -> None:
        """Its update is there to be fetched."""
        self.update, self.update_bytes = digest, size
        self.end("done")

    def stop(self, reason: str) -> None:
        """End what is at work for it, if anything is, at its next step."""
        if self.guard is not None:
            self.guard.stop(reason)

    @property
    def used_digests(self) -> list[Digest]:
        """Blobs that must stay in the store for it."""
        asked = self.ask.blobs if self.ask is not None else ()
        return [*asked, *([self.update] if self.update is not None else [])]

    def message(self) -> pb.TrainingState:
        """As it is told."""
        made = self.made
        return pb.TrainingState(
            state=self.state,
            reason=self.reason,
            steps=self.guard.steps if self.guard is not None else made.steps,
            update=self.update or "",
            update_bytes=self.update_bytes,
            samples=made.samples,
            seconds=made.seconds,
            metrics=[pb.Metric(name=name, value=value) for name, value in made.metrics.items()],
            children=[child_message(child) for child in made.children],
        )
