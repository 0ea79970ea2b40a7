"""What the emulator can carry at most on this machine, now: one TCP stream over a link without limits."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from collab.emulation.ability import BackendName
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.network import mesh
from collab.emulation.profiles import profile_named
from collab.errors import BackendError

_SECONDS: Final = 0.6
_PORT: Final = 7999
_WAIT_S: Final = 20.0
_SINK: Final = """
import socket, sys, time
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    with server.accept()[0] as link:
        data, count, begun = bytearray(1 << 20), 0, time.perf_counter()
        while got := link.recv_into(data):
            count += got
        print(8e-6 * count / (time.perf_counter() - begun))
"""
_SOURCE: Final = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as link:
    data, end = bytes(1 << 18), time.perf_counter() + float(sys.argv[3])
    while time.perf_counter() < end:
        link.sendall(data)
"""


def measure_ceiling(backend: BackendName) -> float:
    """Mbit/s; takes about a second.  Raises `BackendError` where the machine cannot emulate."""
    network = mesh(["a", "b"], {}, profile_named("loopback"))
    python = (sys.executable, "-I", "-S", "-c")
    with EmulatedNetwork(network, backend=backend) as net:
        sink = [*net.inside("b"), *python, _SINK, str(_PORT)]
        with subprocess.Popen(
            sink, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        ) as taking:
            try:
                assert taking.stdout is not None
                if taking.stdout.readline() != "ready\n":
                    raise BackendError("a process on an emulated host does not start; see `collab doctor`")
                source = [*net.inside("a"), *python, _SOURCE, net.address("b"), str(_PORT), str(_SECONDS)]
                subprocess.run(source, timeout=_WAIT_S, check=False, stderr=subprocess.DEVNULL)
                return float(taking.communicate(timeout=_WAIT_S)[0] or 0.0)
            finally:
                taking.kill()
