"""A training run as a folder: what it began with, how far it is, and what it goes on from.

    training.json       settings, data, history; which checkpoints count
    checkpoints/        models with their optimizer's state: the last epoch's and the best one's
    model.keras         the best epoch's, once the run is finished

A checkpoint is in place before ``training.json`` names it, and goes after another one is named.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import msgspec

from collab.core.plan import Frozen
from collab.errors import InputError, IntegrityError
from collab.toolchain.keras_files import write_durably
from collab.toolchain.training.settings import Settings
from collab.updates.store.lock import folder_lock

STATE: Final = "training.json"
MODEL: Final = "model.keras"
CHECKPOINTS: Final = "checkpoints"
VERSION: Final = 1
MAX_STATE_BYTES: Final = 256 << 20


class Source(Frozen, frozen=True, kw_only=True):
    """What a run began with.

    Attributes:
        model: name in the zoo, or path of a file.
        data: folder of the prepared data.
        data_digest: of all that is in it.
        classes: their names, by label.
        input_shape: of one example.
    """

    model: str
    data: str
    data_digest: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]


class State(Frozen, frozen=True, kw_only=True):
    """All of ``training.json``.

    Attributes:
        history: metrics of each epoch that is done.
        best: the number of the best of them, from 1; 0 before the first.
        test_accuracy: of the best one on the test split, once the run is finished.
    """

    version: int = VERSION
    source: Source
    settings: Settings
    status: Literal["running", "finished"] = "running"
    history: tuple[dict[str, float], ...] = ()
    best: int = 0
    parameters: int = 0
    test_accuracy: float | None = None
    test_examples: int = 0

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)


class Run:
    """One folder, used by one process at a time; a context manager that holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = ExitStack()

    def __enter__(self) -> Run:
        taken = "another process trains there; wait for it, or choose another --out"
        with ExitStack() as held:
            held.enter_context(folder_lock(self.path, "lock", taken))
            try:
                (self.path / CHECKPOINTS).mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(f"--out {self.path}: cannot be used: {error.strerror}") from error
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / STATE).exists()

    def read(self) -> State:
        """How far it is; raises `InputError`."""
        return read_state(self.path)

    def write(self, state: State) -> None:
        """Say how far it is, and remove the checkpoints that no longer count."""
        # Defaults are written out: they may change, a run's settings may not.
        document = msgspec.json.format(msgspec.json.encode(_fields(state)), indent=1)
        write_durably(self.path / STATE, document + b"\n")
        kept = {self.checkpoint(state.epoch), self.checkpoint(state.best or state.epoch)}
        for path in (self.path / CHECKPOINTS).iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)

    def checkpoint(self, epoch: int) -> Path:
        """Where the model after so many epochs is."""
        return self.path / CHECKPOINTS / f"epoch-{epoch:06d}.keras"

    def load(self, keras: Any, epoch: int, compiled: bool = True) -> Any:
        """The model after so many epochs, with its optimizer if asked; raises `IntegrityError`."""
        path = self.checkpoint(epoch)
        try:
            return keras.models.load_model(path, compile=compiled, safe_mode=True)
        except Exception as error:  # Keras raises whatever a file makes it raise
            reason = " ".join(str(error).split())[:160]
            raise IntegrityError(f"{path}: is broken ({reason}); train anew") from error


def read_state(folder: Path) -> State:
    """What ``training.json`` of a run says; raises `InputError`."""
    path = folder / STATE
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise InputError(f"{path}: is over {MAX_STATE_BYTES} bytes")
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: holds no training run; leave --resume out to begin one") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}; train anew") from error
    if state.version != VERSION:
        raise InputError(f"{path}: version {state.version}, this collab reads {VERSION}; train anew")
    return state


def _fields(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _fields(getattr(value, name)) for name in value.__struct_fields__}
    return value
