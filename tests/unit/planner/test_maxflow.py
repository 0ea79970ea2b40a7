"""Maximum flow against all cuts of small networks."""

from __future__ import annotations

import itertools
import random

from collab.planner.maxflow import Network


def test_the_cut_is_the_least_of_all_of_random_networks():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    for _ in range(500):
        members = rng.randint(1, 7)
        net = Network(members)
        places = [*range(members), net.source, net.sink, *(net.place() for _ in range(rng.randint(0, 2)))]
        arcs = []
        for _ in range(rng.randint(0, 20)):
            tail, head = rng.sample(places, 2)
            arcs.append(
                (tail, head, rng.randint(0, 9) * rng.choice((1, 10**30)), rng.choice((0, rng.randint(0, 9))))
            )
            net.arc(*arcs[-1])
        inner = [p for p in places if p not in (net.source, net.sink)]
        costs = {}
        for bits in itertools.product((False, True), repeat=len(inner)):
            near = {net.source, *itertools.compress(inner, bits)}
            costs[frozenset(near)] = sum(
                (tail in near and head not in near) * there + (head in near and tail not in near) * back
                for tail, head, there, back in arcs
            )
        least = min(costs.values())
        found, value = net.cut()
        assert value == least
        widest = max((near for near, cost in costs.items() if cost == least), key=len)
        assert found == {place for place in widest if place < members}


def test_a_long_chain_is_cut_at_its_narrowest_arc():
    net = Network(2000)
    widths = [1000 + (k * 7919) % 1000 for k in range(2001)]
    widths[1234] = 3
    for k, width in enumerate(widths):
        net.arc(k - 1 if k else net.source, k if k < 2000 else net.sink, width)
    assert net.cut() == (frozenset(range(1234)), 3)
