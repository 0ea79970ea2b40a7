"""Minimum cuts of flow networks with whole-numbered capacities."""

from __future__ import annotations

from collections import deque


class Network:
    """Places 0 to ``members - 1``, a source, a sink, and what `place` adds."""

    def __init__(self, members: int) -> None:
        self.members, self.source, self.sink = members, members, members + 1
        self.out: list[list[int]] = [[] for _ in range(members + 2)]
        # Arc 2i and its reverse 2i + 1 share an edge.
        self.heads: list[int] = []
        self.room: list[int] = []

    def arc(self, tail: int, head: int, room: int, back: int = 0) -> None:
        """Add an edge with its capacities both ways."""
        self.out[tail].append(len(self.heads))
        self.out[head].append(len(self.heads) + 1)
        self.heads += (head, tail)
        self.room += (room, back)

    def place(self) -> int:
        """One more place between source and sink."""
        self.out.append([])
        return len(self.out) - 1

    def cut(self) -> tuple[frozenset[int], int]:
        """Members on the source's side of a least cut, as many as can be, and its capacity; once.

        The first phase of push-relabel (Goldberg and Tarjan, JACM 1988), first in first out,
        with exact heights again after as many relabels as there are places (Cherkassky and
        Goldberg, 1997).
        """
        out, heads, room, size = self.out, self.heads, self.room, len(self.out)
        excess, current = [0] * size, [0] * size
        active: deque[int] = deque()
        for arc in out[self.source]:
            head, flow = heads[arc], room[arc]
            if flow:
                room[arc] = 0
                room[arc ^ 1] += flow
                excess[head] += flow
        height, relabels = self.heights(), 0
        active.extend(v for v in range(size) if excess[v] and height[v] < size and v != self.sink)
        while active:
            place = active.popleft()
            relabels += self.discharge(place, height, excess, current, active)
            if relabels > size:
                height, relabels, current = self.heights(), 0, [0] * size
                active = deque(v for v in range(size) if excess[v] and height[v] < size and v != self.sink)
        height = self.heights()
        return frozenset(k for k in range(self.members) if height[k] >= size), excess[self.sink]

    def discharge(
        self, place: int, height: list[int], excess: list[int], current: list[int], active: deque[int]
    ) -> int:
        """Push what a place has too much of downwards, raising it as needed; how often it was raised."""
        arcs, heads, room, size, raised = self.out[place], self.heads, self.room, len(self.out), 0
        while excess[place] and height[place] < size:
            if current[place] == len(arcs):
                height[place] = 1 + min((height[heads[a]] for a in arcs if room[a]), default=size)
                current[place] = 0
                raised += 1
                continue
            arc = arcs[current[place]]
            head = heads[arc]
            if not room[arc] or height[head] >= height[place]:
                current[place] += 1
                continue
            flow = min(excess[place], room[arc])
            room[arc] -= flow
            room[arc ^ 1] += flow
            excess[place] -= flow
            if not excess[head] and head not in (self.source, self.sink):
                active.append(head)
            excess[head] += flow
        return raised

    def heights(self) -> list[int]:
        """Residual distance of each place to the sink; the number of places where there is no way."""
        size = len(self.out)
        height = [size] * size
        height[self.sink] = 0
        queue = deque((self.sink,))
        while queue:
            place = queue.popleft()
            for arc in self.out[place]:
                tail = self.heads[arc]
                if height[tail] == size and self.room[arc ^ 1] and tail != self.source:
                    height[tail] = height[place] + 1
                    queue.append(tail)
        return height
