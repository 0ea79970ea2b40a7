"""What a secure sum costs a client and the server: a fifth of the clients drops out before they send vectors.

All parties are in one process and work one after another, so there is no network in it;
signatures are those of a cluster's certificates.  Sums are compared with the plain ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, run
from collab.federated.privacy.fixed_point import Encoding, decode_sum, encode, vector_length
from collab.federated.privacy.identities import signer, verifier
from collab.federated.privacy.messages import FromClient, Terms, default_threshold
from collab.federated.privacy.noise import KeyedNoise
from collab.federated.privacy.secure_client import SecureClient
from collab.federated.privacy.secure_server import SecureServer
from tests.identities import Identities

BASIS = bytes(32)
WIDE, NARROW = Encoding(), Encoding(32, fraction_bits=20, limit=1.0, max_samples=1)


def session(home: Identities, clients: int, weights: int, encoding: Encoding) -> tuple[float, float]:
    """Seconds of one client, its median over all, and of the server."""
    names = tuple(f"client-{number:03d}" for number in range(clients))
    shapes = {"w": (weights,)}
    terms = Terms("s", names, default_threshold(clients), vector_length(shapes), BASIS, encoding)
    update = {"w": np.random.default_rng(0).uniform(-0.5, 0.5, weights).astype(np.float32)}
    parties, spent, said = {}, dict.fromkeys(names, 0.0), dict[str, FromClient]()
    for name in names:
        identity = home.of(name)
        start = time.perf_counter()
        vector = encode(encoding, shapes, update, 1)
        one = SecureClient(name, terms, basis=BASIS, sign=signer(identity), verify=verifier(identity))
        one.contribute(vector)
        said[name] = one.start()
        spent[name] += time.perf_counter() - start
        parties[name] = one
    server, served = SecureServer(terms, verifier(home.of(names[0]))), 0.0
    while server.expects is not None:
        if server.expects.__name__ == "Masked":
            said = {name: said[name] for name in names[clients // 5 :]}
        start = time.perf_counter()
        for name, message in said.items():
            server.receive(name, message)
        replies = server.close()
        served += time.perf_counter() - start
        said = {}
        for name, reply in replies.items():
            start = time.perf_counter()
            said[name] = parties[name].answer(reply)
            spent[name] += time.perf_counter() - start
    outcome = server.outcome
    assert outcome is not None
    total = decode_sum(encoding, shapes, outcome.total, len(outcome.survivors))
    plain = encode(WIDE, shapes, update, 1)[:-1].view(np.int64)
    if encoding is WIDE and not (total.numbers == plain * len(outcome.survivors)).all():
        raise SystemExit("the sum is not exact")
    return statistics.median(spent[name] for name in outcome.survivors), served


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    cases = [(10, 1_000_000, WIDE), (10, 1_000_000, NARROW), (100, 100_000, WIDE)]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        home = Identities(Path(folder))
        for clients, weights, encoding in cases[: 2 if options.quick else 3]:
            times = [session(home, clients, weights, encoding) for _ in range(1 if options.quick else 3)]
            what = f"{clients} clients, {weights:,} weights, {encoding.ring_bits} bits"
            for who, seconds in zip(("client", "server"), zip(*times, strict=True), strict=True):
                target = "<= 1" if (who, clients) == ("client", 10) else ""
                took = statistics.median(seconds)
                figures.append(Figure(f"{what}: {who}", took, "s", target, None, "all phases, one core"))
                print(f"{figures[-1].name} {took:.3f} s", file=sys.stderr)
    start = time.perf_counter()
    KeyedNoise(bytes(32)).normal(1_000_000)
    figures.append(
        Figure("noise for a million weights", time.perf_counter() - start, "s", "", None, "one core")
    )
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
