"""A node's part in secure sums: one session, of the order that it is at.

Its secrets are in memory only, so a node that is started again has dropped out of the round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from collab.errors import Conflict, NotLoaded
from collab.federated.orders import OrderId
from collab.federated.update import Parameters
from collab.node.training_offer import Ask

if TYPE_CHECKING:
    from collab.federated.privacy.sessions import ClientSession
    from collab.security.identity import Credentials

MAX_MESSAGE_BYTES: Final = 4 << 20
"""Of what a server sends in a secure sum: the keys of 512 clients with their certificates, and some room."""


class MaskedOrder:
    """The latest session.  Blocks while it computes; one call at a time.

    Args:
        name: This node's.
        credentials: Its identity; None where there are none, and names stand in for them.
    """

    def __init__(self, name: str, credentials: Credentials | None) -> None:
        self._name = name
        self._credentials = credentials
        self._session: ClientSession | None = None
        self._order: OrderId | None = None
        self._turn = threading.Lock()
        """Training masks in a thread of its own."""

    def answer(self, ask: Ask | None, order: OrderId, data: bytes) -> bytes:
        """What to say to a message; ``ask`` is what the node was asked for, if it is this order.

        Raises `NotLoaded` for an order that is not known, `Conflict` for one whose update is not to be
        masked, `ProtocolError`, `LimitExceeded`, `ConfigError` or `Refused` for what a client does not
        go along with.
        """
        with self._turn:
            if self._session is None or self._order != order:
                return self._begin(ask, order, data)
            said = self._session.again(data)
            return said if said is not None else self._session.take(data)

    def _begin(self, ask: Ask | None, order: OrderId, data: bytes) -> bytes:
        if ask is None or ask.order != order:
            raise NotLoaded(f"order {order.round} of run {order.run!r} is not known here; offer it")
        if not ask.masked:
            raise Conflict(f"order {order.round} of run {order.run!r}: it was not offered as a masked one")
        # Ciphers that other nodes need not load.
        from collab.federated.privacy.identities import name_signer, name_verifier, signer, verifier
        from collab.federated.privacy.masking import basis_of
        from collab.federated.privacy.sessions import ClientSession

        mine = self._credentials
        sign = signer(mine) if mine is not None else name_signer(self._name)
        verify = verifier(mine) if mine is not None else name_verifier()
        session = ClientSession(
            self._name,
            data,
            lambda masking: basis_of(ask.trainable, ask.work.model, ask.work.training, masking),
            sign,
            verify,
        )
        self._session, self._order = session, order
        said = session.again(data)
        assert said is not None
        return said

    def masking(self, order: OrderId) -> Callable[[Parameters, int], bytes]:
        """What masks the update of an order; raises `NotLoaded` where its keys were not agreed on."""
        session = self._session
        if session is None or self._order != order:
            raise NotLoaded("secure aggregation: this node holds no keys of the round; it is left out")

        def mask(delta: Parameters, samples: int) -> bytes:
            with self._turn:
                return session.masked(delta, samples)

        return mask

    def forget(self, run: str) -> None:
        """The run is over."""
        if self._order is not None and self._order.run == run:
            self._session, self._order = None, None
