"""``python -m collab.cli.desk SETTINGS.json``: what asks on a host of ``collab emulate``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from collab.assembly import build_cluster, load_identity
from collab.cli.logs import log_to_stderr
from collab.emulation.desk import say, serve
from collab.emulation.orders import DeskSettings, Failed
from collab.errors import CollabError


async def _run(settings: DeskSettings) -> None:
    security = await asyncio.to_thread(load_identity, settings.identity)
    async with build_cluster(security=security, insecure_networks=security is None) as cluster:
        await serve(settings, cluster)


def main() -> None:
    """Read the settings, and serve until standard input ends."""
    log_to_stderr(False)
    try:
        asyncio.run(_run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=DeskSettings)))
    except CollabError as error:
        say(Failed(error.code, str(error)))


if __name__ == "__main__":
    main()
