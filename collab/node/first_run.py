"""A stage runs once in a process of its own before it comes into the node's: native code may crash.

The node starts ``python -m collab.cli.first_run``, writes an `Order` to its standard input, and reads
a line of JSON (`Said`) whenever a stage begins, ends or fails.  What ends that process ends nothing
else.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import Digest, StageId
from collab.core.plan import Plan
from collab.errors import BackendError, CollabError, StoreError, from_wire
from collab.federated.disk import Folder, replace_file
from collab.node.config import RuntimeConfig
from collab.runtime.base import Backend, RuntimeClass
from collab.runtime.cpu import available_bytes, resident_bytes
from collab.runtime.sample import seeded_inputs, zero_inputs

MAX_REMEMBERED: Final = 1024
"""Stages that a node remembers to have run."""
MAX_STAGES: Final = 64
"""Stages of one process; an order of that many fits into a pipe."""
MAX_SAID: Final = 256 * 1024
"""Bytes that such a process may say."""
_LOOK_S: Final = 0.05

Fate = Literal["ended", "too long", "too large", "too much said", "stopped"]


class StageTry(msgspec.Struct, frozen=True):
    """A stage to be run."""

    stage: StageId
    path: str
    sha256: Digest
    backend: str
    threads: int


class Order(msgspec.Struct, frozen=True):
    """What such a process is for."""

    stages: tuple[StageTry, ...]
    runtime: RuntimeConfig


class Said(msgspec.Struct, frozen=True):
    """One line of what it says."""

    stage: StageId
    what: Literal["begins", "ran", "failed"]
    code: str = ""
    text: str = ""


def concerns(plan: Plan, setting: str) -> bool:
    """Whether stages of a plan run in a process of their own first.

    ``updates`` are plans whose model came as a release or took the place of another one.
    """
    update = bool(plan.release) or any(model.origin is not None for model in plan.models)
    return setting == "all" or (setting == "updates" and update)


# --- in the process ------------------------------------------------------------------


def run_stages(order: Order, backends: Mapping[str, Backend], say: Callable[[Said], None]) -> None:
    """Load each stage and run it twice: on zeros, and on random numbers where those are safe."""
    for one in order.stages:
        say(Said(one.stage, "begins"))
        try:
            _run(one, backends)
        except CollabError as error:
            say(Said(one.stage, "failed", error.code, str(error)))
            return
        except Exception as error:  # a back end of somebody else's may raise anything
            say(Said(one.stage, "failed", BackendError.code, f"{type(error).__name__}: {error}"[:300]))
            return
        say(Said(one.stage, "ran"))


def _run(one: StageTry, backends: Mapping[str, Backend]) -> None:
    backend = backends.get(one.backend)
    if backend is None:
        raise BackendError(
            f"back end {one.backend!r} is not here; this node has {', '.join(sorted(backends))}"
        )
    loaded = backend.load(Path(one.path), one.threads)
    try:
        for inputs in (zero_inputs(loaded), seeded_inputs(loaded)):
            made = loaded.run(inputs)
            for spec, array in zip(loaded.outputs, made, strict=True):
                if (tuple(array.shape), array.dtype.name) != (spec.shape, spec.dtype):
                    raise BackendError(
                        f"output {spec.name!r}: {array.dtype.name} {array.shape} came, "
                        f"{spec.dtype} {spec.shape} was said"
                    )
    finally:
        loaded.close()


# --- what follows from it ------------------------------------------------------------


def judge(order: Order, said: Sequence[Said], fate: Fate, code: int, limit_s: float) -> CollabError | None:
    """Why the stages must not be loaded; None if all of them ran."""
    last = said[-1] if said else None
    name = repr(last.stage) if last is not None else ", ".join(repr(one.stage) for one in order.stages)
    where = f"stage {name}: its first run, in a process of its own,"
    if fate == "too long":
        return BackendError(
            f"{where} did not end within {limit_s:g} s; raise runtime.first_run_s if it needs longer"
        )
    if fate == "too large":
        return BackendError(f"{where} took more memory than this device has left; use a smaller stage")
    if fate != "ended":
        return BackendError(f"{where} was ended: {fate}")
    if last is not None and last.what == "failed":
        return from_wire(last.code, f"stage {name}: its first run failed: {last.text}")
    ran = [one.stage for one in said if one.what == "ran"]
    if code == 0 and ran == [one.stage for one in order.stages]:
        return None
    if code < 0:
        reason = " (out of memory?)" if -code == signal.SIGKILL else ""
        return BackendError(
            f"{where} was ended by {_signal(-code)}{reason}; the model is broken, or its runtime is: "
            "convert it anew"
        )
    return BackendError(f"{where} ended with exit code {code}; see the node's log")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- in the node ---------------------------------------------------------------------


class FirstRuns:
    """Starts the processes, and remembers which stages have run here.

    Args:
        command: what starts one.
        file: in the node's store.
        config: `first_run` and `first_run_s`; what back ends run on goes to the process too.
    """

    def __init__(self, command: Sequence[str], file: Path, config: RuntimeConfig) -> None:
        self._command, self._file, self._config = tuple(command), file, config
        self._known: dict[str, None] | None = None

    def concerns(self, plan: Plan) -> bool:
        """Whether a plan's stages need one."""
        return concerns(plan, self._config.first_run)

    async def run(self, stages: Sequence[tuple[StageTry, RuntimeClass]]) -> None:
        """Run those that have not run here under this runtime.

        Raises:
            BackendError: one ended its process, or did not end; nothing happened to the node.
            CollabError: what loading or running it raised.
        """
        known = await asyncio.to_thread(self._read)
        keys = {one: _key(one, runtime) for one, runtime in stages}
        fresh = [one for one, key in keys.items() if key not in known]
        for start in range(0, len(fresh), MAX_STAGES):
            some = fresh[start : start + MAX_STAGES]
            stop = threading.Event()
            try:
                await asyncio.to_thread(self._try, Order(tuple(some), self._config), stop)
            finally:
                stop.set()
            await asyncio.to_thread(self._remember, [keys[one] for one in some])

    def _read(self) -> dict[str, None]:
        if self._known is None:
            found: list[str] = []
            with suppress(OSError, msgspec.DecodeError):
                found = msgspec.json.decode(self._file.read_bytes(), type=list[str])
            self._known = dict.fromkeys(found[-MAX_REMEMBERED:])
        return self._known

    def _remember(self, keys: Sequence[str]) -> None:
        known = list({**self._read(), **dict.fromkeys(keys)})[-MAX_REMEMBERED:]
        self._known = dict.fromkeys(known)
        # A full disk costs another run after a restart, no more.
        with suppress(StoreError):
            replace_file(Folder(self._file.parent), self._file.name, msgspec.json.encode(known))

    def _try(self, order: Order, stop: threading.Event) -> None:
        try:
            # A session of its own: what a terminal sends to the node is not for it.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise BackendError(
                f'no process can be started for a first run: {error.strerror}; set runtime.first_run = "off"'
            ) from error
        with process:
            try:
                said, fate = _supervise(process, order, self._config.first_run_s, stop)
            finally:
                process.kill()
        refusal = judge(order, said, fate, process.returncode, self._config.first_run_s)
        if refusal is not None:
            raise refusal


def _supervise(
    process: subprocess.Popen[bytes], order: Order, limit_s: float, stop: threading.Event
) -> tuple[list[Said], Fate]:
    """Read what it says until it ends, or has to be ended."""
    deadline_s, most_bytes = time.monotonic() + limit_s, available_bytes()
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):  # it has ended already
        process.stdin.write(msgspec.json.encode(order))
        process.stdin.close()
    data, open_ = b"", True
    fate: Fate | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while fate is None and (open_ or process.poll() is None):
            if not open_:
                stop.wait(_LOOK_S / 5)
            elif selector.select(_LOOK_S):
                part = os.read(process.stdout.fileno(), 65_536)
                data, open_ = data + part, bool(part)
            if stop.is_set():
                fate = "stopped"
            elif time.monotonic() > deadline_s:
                fate = "too long"
            elif most_bytes and resident_bytes(str(process.pid)) > most_bytes:
                fate = "too large"
            elif len(data) > MAX_SAID:
                fate = "too much said"
    said = []
    for line in data.splitlines():
        with suppress(msgspec.DecodeError):  # the last one may be cut short
            said.append(msgspec.json.decode(line, type=Said))
    return said, fate or "ended"


def _key(one: StageTry, runtime: RuntimeClass) -> str:
    return hashlib.sha256(f"{one.sha256} {one.backend} {one.threads} {runtime}".encode()).hexdigest()


def _environment() -> dict[str, str]:
    # The package may be run from a checkout that is not installed.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


prepare(Said)
