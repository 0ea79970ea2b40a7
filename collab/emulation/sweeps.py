"""Many runs of one scenario with other values: which there are, and who works them off."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from collab.emulation.results import Results
from collab.emulation.scenario import Scenario, convert_scenario
from collab.emulation.simulator import Inputs, Run, gathered, prepare, simulate_plan
from collab.errors import BackendError, ConfigError, PeerUnreachable, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from multiprocessing.synchronize import Event

MAX_POINTS: Final = 10_000
_MAX_VALUES: Final = 10_000


@dataclass(frozen=True)
class Sweep:
    """One field, such as ``links.0.profile``, and the values that it takes in turn."""

    path: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One scenario of a sweep."""

    values: Mapping[str, Any]
    """By the path of the field."""
    scenario: Scenario


@dataclass(frozen=True)
class Task:
    """One plan in one repetition of one point."""

    point: int
    scenario: Scenario
    plan: int
    repetition: int


def parse_sweep(text: str) -> Sweep:
    """Read ``links.0.profile=lte,wifi6`` or ``workload.rate=1..10``; raises `UsageError`."""
    path, mark, values = text.partition("=")
    if not mark or not path or not values:
        raise UsageError(
            f"--sweep {text!r}: write FIELD=VALUE,VALUE or FIELD=FROM..TO, such as workload.rate=1..10"
        )
    low, dots, high = values.partition("..")
    if dots:
        try:
            first, last = int(low), int(high)
        except ValueError:
            raise UsageError(f"--sweep {text!r}: a range has whole numbers, such as 1..10") from None
        if not 0 <= last - first < _MAX_VALUES:
            raise UsageError(f"--sweep {text!r}: give an ascending range of at most {_MAX_VALUES} values")
        return Sweep(tuple(path.split(".")), tuple(range(first, last + 1)))
    return Sweep(tuple(path.split(".")), tuple(_value(part.strip()) for part in values.split(",")))


def _value(text: str) -> Any:
    """A number, a truth or a word."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def points_of(tree: Any, sweeps: Sequence[Sweep], seeds: int = 1) -> tuple[Point, ...]:
    """Every combination of values, each with so many seeds that follow the scenario's.

    Raises `ConfigError` for a field that the scenario does not have, or a value that it cannot have.
    """
    count = seeds
    for sweep in sweeps:
        count *= len(sweep.values)
    if not 1 <= count <= MAX_POINTS:
        raise ConfigError(f"--sweep: {count} combinations; give 1 to {MAX_POINTS}")
    found = []
    for values in product(*(sweep.values for sweep in sweeps)):
        changed = copy.deepcopy(tree)
        named = {}
        for sweep, value in zip(sweeps, values, strict=True):
            _set(changed, sweep.path, value)
            named[".".join(sweep.path)] = value
        scenario = convert_scenario(changed)
        for number in range(seeds):
            seeded = {**changed, "seed": scenario.seed + number * scenario.repetitions}
            found.append(Point({**named, "seed": seeded["seed"]}, convert_scenario(seeded)))
    return tuple(found)


def _set(tree: Any, path: Sequence[str], value: Any) -> None:
    """Put a value where a path leads; the last name may be new."""
    place = tree
    for at, name in enumerate(path):
        last = at == len(path) - 1
        where = ".".join(path[: at + 1])
        if isinstance(place, list):
            if not name.isdigit() or int(name) >= len(place):
                raise ConfigError(f"--sweep {where}: there is no such entry, there are {len(place)}")
            key: Any = int(name)
        elif isinstance(place, dict):
            if not last and name not in place:
                raise ConfigError(
                    f"--sweep {where}: the scenario has no such field; it has {', '.join(place)}"
                )
            key = name
        else:
            raise ConfigError(f"--sweep {where}: {'.'.join(path[:at])} is a value and has no fields")
        if last:
            place[key] = value
        else:
            place = place[key]


# --- working them off -----------------------------------------------------------------


Done = Callable[[int, int], None]
"""Called with tasks that are done, and how many there are."""
Map = Callable[[Sequence[Task], Inputs], Iterator["tuple[int, Run]"]]
"""Works tasks off in any order: the number of each and what it gave.  After an interrupt it gives what was
done until then, and ends."""


def run_points(
    points: Sequence[Point], inputs: Inputs, work: Map, done: Done = lambda number, total: None
) -> tuple[Results, ...]:
    """The results of every point; all scenarios are checked before the first runs.

    After an interrupt, points of which a run is missing or partial are marked as partial.

    Raises:
        ConfigError: a scenario is impossible.
    """
    placed = [prepare(point.scenario, inputs)[1] for point in points]
    tasks = [
        Task(number, point.scenario, plan, repetition)
        for number, point in enumerate(points)
        for repetition in range(point.scenario.repetitions)
        for plan in range(len(point.scenario.plans))
    ]
    runs: dict[int, Run] = {}
    with suppress(KeyboardInterrupt):
        for number, run in work(tasks, inputs):
            runs[number] = run
            done(len(runs), len(tasks))
    grouped: list[list[Run]] = [[] for _ in points]
    for number, run in sorted(runs.items()):
        grouped[tasks[number].point].append(run)
    return tuple(
        gathered(point.scenario, plans, group)
        for point, plans, group in zip(points, placed, grouped, strict=True)
    )


def run_task(task: Task, inputs: Inputs, told: Callable[[int], None] = lambda requests: None) -> Run:
    """One task, wherever it is worked off; ``told`` of its requests that are done."""
    known, placed = prepare(task.scenario, inputs)
    return simulate_plan(known, placed[task.plan], task.repetition, inputs.traces, told)


def one_by_one(told: Callable[[int], None] = lambda requests: None) -> Map:
    """In this process; ``told`` of all requests that are done."""

    def work(tasks: Sequence[Task], inputs: Inputs) -> Iterator[tuple[int, Run]]:
        before = 0

        def tell(requests: int) -> None:
            told(before + requests)

        for number, task in enumerate(tasks):
            run = run_task(task, inputs, tell)
            before += len(run.askings)
            yield number, run
            if run.partial:
                return

    return work


def on_cores(count: int) -> Map:
    """In so many processes of this machine; an interrupt is this process's, which stops the others."""

    def work(tasks: Sequence[Task], inputs: Inputs) -> Iterator[tuple[int, Run]]:
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from multiprocessing import get_context

        # Not forked: the parent may have threads.
        context = get_context("spawn")
        stop = context.Event()
        with ProcessPoolExecutor(
            min(count, len(tasks)), context, initializer=_obey, initargs=(stop,)
        ) as pool:
            with _interrupts_held():
                futures: dict[Future[Run], int] = {
                    pool.submit(_run_until_stopped, task, inputs): number for number, task in enumerate(tasks)
                }
            left = dict(futures)
            try:
                for future in as_completed(futures):
                    yield left.pop(future), future.result()
            except KeyboardInterrupt:
                stop.set()
                pool.shutdown(cancel_futures=True)
                for future, number in left.items():
                    if not future.cancelled():
                        yield number, future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return work


_stop: Event | None = None
"""Of a process that works tasks off: set when it has to end."""


def _obey(stop: Event) -> None:
    global _stop
    _stop = stop


def _run_until_stopped(task: Task, inputs: Inputs) -> Run:
    def look(_: int) -> None:
        if _stop is not None and _stop.is_set():
            raise KeyboardInterrupt

    if _stop is not None and _stop.is_set():
        return Run((), (), partial=True)
    return run_task(task, inputs, look)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started meanwhile never see an interrupt of the terminal; this one sees it later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_dask(address: str) -> Map:
    """On a Dask cluster: that of a scheduler's address, or one of this machine's cores for ``local``.

    Raises `BackendError` without the ``emulation`` extra, `PeerUnreachable` without a scheduler.
    """

    def work(tasks: Sequence[Task], inputs: Inputs) -> Iterator[tuple[int, Run]]:
        with dask_client(address) as client:
            import distributed

            # Sent once, not with every task.
            shared = client.scatter(inputs, broadcast=True)
            futures = {
                client.submit(run_task, task, shared, pure=False): number for number, task in enumerate(tasks)
            }
            try:
                for future in distributed.as_completed(list(futures)):  # type: ignore[no-untyped-call]
                    yield futures[future], future.result()
            except KeyboardInterrupt:
                client.cancel(list(futures))  # what is done has been given

    return work


@contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """A client of the cluster at a scheduler's address, or of one of this machine's cores for ``local``.

    Raises `BackendError` without the ``emulation`` extra, `PeerUnreachable` without a scheduler.
    """
    try:
        import distributed
    except ImportError as error:
        raise BackendError("--dask: dask.distributed is missing; install collab[emulation]") from error
    client_of: Callable[..., Any] = distributed.Client
    if address != "local":
        try:
            client = client_of(address, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise PeerUnreachable(
                f"--dask {address}: no scheduler answers there; start one with: dask scheduler"
            ) from error
        with client:
            yield client
        return
    cluster_of: Callable[..., Any] = distributed.LocalCluster
    with cluster_of(threads_per_worker=1, dashboard_address=None) as cluster, client_of(cluster) as client:
        yield client
