"""Clients and a server of one secure sum, with identities of SHA-256 and chances of a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping

import numpy as np

from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.messages import FromClient, FromServer, Terms, default_threshold
from collab.federated.privacy.secure_client import SecureClient
from collab.federated.privacy.secure_server import SecureServer

BASIS = bytes(range(32))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"client-{index:02d}" for index in range(count))


def terms(count: int = 10, length: int = 50, **changes) -> Terms:
    return Terms(
        **{
            "session": "task/3/1",
            "invited": names(count),
            "threshold": default_threshold(count),
            "length": length,
            "basis": BASIS,
            "encoding": Encoding(),
            **changes,
        }
    )


def sign_as(name: str) -> Callable[[bytes], bytes]:
    return lambda statement: hashlib.sha256(name.encode() + statement).digest()


def verify(name: str, statement: bytes, signature: bytes) -> bool:
    return sign_as(name)(statement) == signature


def vectors(terms: Terms, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, np.iinfo(terms.encoding.type).max, terms.length, terms.encoding.type)
        for name in terms.invited
    }


def client(
    terms: Terms, name: str, vector: np.ndarray, *, basis: bytes = BASIS, seed: int = 0
) -> SecureClient:
    chances = random.Random(f"{name} {seed}")
    return SecureClient(
        name, terms, vector, basis=basis, sign=sign_as(name), verify=verify, random=chances.randbytes
    )


class Cohort:
    """Runs the phases one by one; who is named as leaving says nothing from that phase on."""

    def __init__(self, terms: Terms, inputs: Mapping[str, np.ndarray]) -> None:
        self.terms, self.inputs = terms, inputs
        self.server = SecureServer(terms, verify)
        self.clients = {name: client(terms, name, vector) for name, vector in inputs.items()}
        self.said: dict[str, FromClient] = {name: one.start() for name, one in self.clients.items()}
        self.after: Callable[[SecureServer], None] = lambda server: None

    def phase(self, leave: Collection[str] = ()) -> Mapping[str, FromServer]:
        """Hand in what clients have said, close, and have them answer; returns what they were sent."""
        for name in leave:
            self.said.pop(name)
        for name, message in self.said.items():
            self.server.receive(name, message)
            self.after(self.server)
        replies = self.server.close()
        self.after(self.server)
        self.said = {name: self.clients[name].answer(reply) for name, reply in replies.items()}
        return replies

    def run(self, leave: Mapping[int, Collection[str]] | None = None) -> SecureServer:
        for number in range(5):
            self.phase((leave or {}).get(number, ()))
        return self.server

    def total(self, who: Collection[str]) -> np.ndarray:
        return sum((self.inputs[name] for name in who), np.zeros(self.terms.length, self.terms.encoding.type))
