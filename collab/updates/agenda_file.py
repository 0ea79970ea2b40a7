"""An agent's agenda on the disk, in the folder of the store of releases that it is about.  Blocks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from collab.errors import ConfigError, InputError, StoreError
from collab.security.files import PUBLIC, write
from collab.updates.agenda import MAX_AGENDA_BYTES, Agenda, decode_agenda
from collab.updates.store.lock import folder_lock

NAME: Final = "agent.json"
_LOCK: Final = "agent.lock"


class AgendaFile:
    """One family's, for one agent at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locked(self) -> AbstractContextManager[None]:
        """For as long as an agent lives; raises `Conflict` while another one does, `StoreError`."""
        return folder_lock(self.folder, _LOCK, "another process looks after these releases; end one of them")

    def read(self) -> Agenda:
        """What is kept; empty where nothing is.  Raises `StoreError` where it cannot be read."""
        path = self.folder / NAME
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_AGENDA_BYTES + 1)
            if len(data) > MAX_AGENDA_BYTES:
                raise InputError(f"over {MAX_AGENDA_BYTES} bytes")
            return decode_agenda(data)
        except FileNotFoundError:
            return Agenda()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        except InputError as error:
            # The store says what runs, so all that is lost is when something was done last.
            raise StoreError(f"{path}: {error}; remove it: the agent then begins with a look") from error

    def write(self, agenda: Agenda) -> None:
        """Keep it, whole or not at all; raises `StoreError`."""
        try:
            write(self.folder / NAME, msgspec.json.encode(agenda), PUBLIC)
        except ConfigError as error:
            raise StoreError(str(error)) from error
