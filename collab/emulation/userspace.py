"""The back end that works on every kernel: TUN devices, and link models that decide about each packet."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from math import inf
from typing import Final

from collab.emulation.assembled import AssembledLinks
from collab.emulation.backend import Backend, Control
from collab.emulation.counters import EmulatorCounts, Lateness
from collab.emulation.forward import Forwarder
from collab.emulation.namespaces import REMEDY, fresh_namespace, open_tun
from collab.emulation.network import Network
from collab.emulation.profile import LinkProfile
from collab.emulation.traces import Trace
from collab.errors import BackendError

_BATCH: Final = 32
"""Packets that are read from a host before it is the turn of others."""
_PACKET: Final = 65_536 + 64
_PR_SET_TIMERSLACK: Final = 29
_PRIORITY: Final = 2
"""Real-time; low, but above tools that are given the lowest to measure with."""


def make_precise() -> None:
    """Be woken when asked to, before others, and never pause; as far as this process may."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except OSError:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
    gc.freeze()
    gc.disable()


class Userspace(Backend):
    """A TUN device in the namespace of every host, read and written by one loop.

    Args:
        network: who is joined with whom.
        seed: of all random draws.
        mtu: of every host's device.
        offload: let hosts send large TCP packets, which are cut here.
        traces: for profiles that name some.
    """

    def __init__(
        self, network: Network, seed: int, mtu: int, traces: Mapping[str, Trace], *, offload: bool
    ) -> None:
        self.namespaces = {}
        self._network, self._seed, self._traces, self._offload = network, seed, traces, offload
        self._tuns: list[int] = []
        self._new()
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                for host in network.hosts:
                    with fresh_namespace() as namespace:
                        self.namespaces[host] = namespace
                        self._tuns.append(open_tun(network.address(host), mtu, offload=offload))
            except OSError as error:
                raise BackendError(
                    f"network namespace with a TUN device: {error.strerror}; {REMEDY}"
                ) from error
            undo.pop_all()

    def _new(self) -> None:
        self._links = AssembledLinks(self._network, self._seed, self._traces)
        self._forwarder = Forwarder(
            self._network,
            self._links.models(),
            self._links.fair_cells(),
            self._deliver,
            offload=self._offload,
        )
        self._late = Lateness()
        self._begun_s, self._begun_busy_s = time.perf_counter(), time.process_time()
        self._failed = 0

    def _now_us(self) -> float:
        return (time.perf_counter() - self._begun_s) * 1e6

    def run(self, control: Control) -> None:
        """See `Backend.run`."""
        ears = [control.fileno(), *self._tuns]
        hosts = {tun: number for number, tun in enumerate(self._tuns)}
        now_us = self._now_us
        while True:
            self._forwarder.advance(now_us())
            due_us = self._forwarder.due_us
            wait_s = None if due_us == inf else max(0.0, (due_us - now_us()) * 1e-6)
            readable, _, _ = select.select(ears, (), (), wait_s)
            for ear in readable:
                host = hosts.get(ear)
                if host is not None:
                    self._read(ear, host)
                elif not control.serve(self):
                    return

    def _read(self, tun: int, host: int) -> None:
        """File what a host has sent; a bounded number, so that nothing due waits for a flood."""
        take, now_us, read = self._forwarder.take, self._now_us, os.read
        try:
            for _ in range(_BATCH):
                take(host, read(tun, _PACKET), now_us())
        except BlockingIOError:
            pass

    def _deliver(self, host: int, packet: bytes, due_us: float) -> None:
        self._late.add(self._now_us() - due_us)
        try:
            os.write(self._tuns[host], packet)
        except OSError:
            # A device whose queue is full loses packets, as elsewhere.
            self._failed += 1

    def change(self, one: str, other: str, profile: LinkProfile) -> None:
        """See `Backend.change`."""
        self._forwarder.advance(self._now_us())
        self._links.change(one, other, profile)
        self._network = self._network.changed(one, other, profile)
        for leg, model in self._links.models().items():
            self._forwarder.replace(leg, model)

    def restart(self, seed: int | None = None) -> None:
        """See `Backend.restart`; packets under way are lost."""
        if seed is not None:
            self._seed = seed
        self._new()

    def counts(self) -> EmulatorCounts:
        """See `Backend.counts`."""
        late, forwarder = self._late, self._forwarder
        return EmulatorCounts(
            directions=forwarder.counts,
            delivered=late.count,
            late_p50_us=late.quantile_us(0.5),
            late_p99_us=late.quantile_us(0.99),
            late_longest_us=late.longest_us,
            stray=forwarder.stray,
            refused_by_nat=forwarder.refused_by_nat,
            given_up=forwarder.given_up + self._failed,
            elapsed_s=time.perf_counter() - self._begun_s,
            busy_s=time.process_time() - self._begun_busy_s,
        )

    def close(self) -> None:
        """See `Backend.close`."""
        for tun in self._tuns:
            os.close(tun)
        self._tuns.clear()
        super().close()
