"""A mosquitto process on this machine's loopback, for the demo and measurements."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Final

from collab.errors import PeerUnreachable
from collab.security.broker import PACKET_BYTES, mosquitto_config
from collab.transport.aio import timeout

REMEDY: Final = "no mosquitto broker on this machine; install it (Debian, Ubuntu: apt-get install mosquitto)"
_START_S: Final = 10.0
_STOP_S: Final = 5.0


def find_mosquitto() -> str:
    """Path of the broker's program; raises `PeerUnreachable` with the remedy."""
    # Debian keeps it where only root's PATH looks.
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise PeerUnreachable(REMEDY)
    return found


class LocalBroker:
    """A broker that anybody on this machine may use; its files go to a folder of the caller's."""

    def __init__(self, folder: Path, packet_bytes: int = PACKET_BYTES) -> None:
        self._folder = folder
        self._packet_bytes = packet_bytes
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        """As nodes listen at it, once it runs."""

    async def __aenter__(self) -> LocalBroker:
        program = find_mosquitto()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        file, log = self._folder / "mosquitto.conf", self._folder / "mosquitto.log"
        text = mosquitto_config(host="127.0.0.1", port=port, packet_bytes=self._packet_bytes)
        await asyncio.to_thread(file.write_text, text, "utf-8")
        output = await asyncio.to_thread(open, log, "wb")
        try:
            self._process = await asyncio.create_subprocess_exec(
                program, "-c", str(file), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        finally:
            output.close()
        try:
            async with timeout(_START_S):
                await self._answers(port)
        except (TimeoutError, asyncio.TimeoutError) as error:
            await self._stop()
            text = await asyncio.to_thread(log.read_text, "utf-8", "replace")
            raise PeerUnreachable(f"the broker did not start: {' '.join(text.split()[-40:])}") from error
        except BaseException:
            await self._stop()
            raise
        self.address = f"mqtt://127.0.0.1:{port}"
        return self

    async def _answers(self, port: int) -> None:
        assert self._process is not None
        while self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.transport.abort()
                return
        raise asyncio.TimeoutError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._stop())

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with timeout(_STOP_S):
                await process.wait()
        except (TimeoutError, asyncio.TimeoutError):
            process.kill()
            await process.wait()
