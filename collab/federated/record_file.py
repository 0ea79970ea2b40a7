"""``rounds.jsonl``: a line of JSON for each round, for ``fed status``, plots and whoever else reads it."""

from __future__ import annotations

from typing import Final

import msgspec

from collab.federated.disk import Disk, replace_file
from collab.federated.records import RoundRecord, Swap

NAME: Final = "rounds.jsonl"
_DECODER: Final = msgspec.json.Decoder(RoundRecord)


class RecordFile:
    """Records of one run on a disk.  Blocking.

    What a crash has left of a line is not read, and is gone after the next write.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read(self) -> list[RoundRecord]:
        """All whole records, in the order of their rounds; raises `StoreError`."""
        records, _ = self._sound()
        return records

    def write(self, record: RoundRecord) -> None:
        """Add a round, durably; one of the same round, and what follows it, is replaced.

        Raises `StoreError`.
        """
        records, size = self._sound()
        known = next((r for r in records if (r.round, r.model) == (record.round, record.model)), None)
        if record.swap is None and known is not None:
            record = msgspec.structs.replace(record, swap=known.swap)
        line = msgspec.json.encode(record) + b"\n"
        if records and records[-1].round >= record.round:
            kept = [msgspec.json.encode(r) + b"\n" for r in records if r.round < record.round]
            replace_file(self._disk, NAME, b"".join([*kept, line]))
            return
        if size is None:
            replace_file(self._disk, NAME, line)
            return
        self._disk.truncate(NAME, size)
        self._disk.append(NAME, line)
        self._disk.sync(NAME)

    def add_swap(self, swap: Swap) -> None:
        """Say of a round what came of deploying its model; later rounds stay.  Raises `StoreError`."""
        records, _ = self._sound()
        told = [msgspec.structs.replace(r, swap=swap) if r.round == swap.round else r for r in records]
        replace_file(self._disk, NAME, b"".join(msgspec.json.encode(record) + b"\n" for record in told))

    def _sound(self) -> tuple[list[RoundRecord], int | None]:
        """Whole records and where they end; None where there is no file."""
        data = self._disk.read(NAME)
        if data is None:
            return [], None
        records, size = [], 0
        for line in data.splitlines(keepends=True):
            try:
                records.append(_DECODER.decode(line))
            except msgspec.MsgspecError:
                break
            if not line.endswith(b"\n"):
                records.pop()
                break
            size += len(line)
        return records, size
