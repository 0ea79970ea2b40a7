"""Results in a folder: raw measurements as CSV, the rest as JSON; written and read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from collab.emulation.results import Asking, Carried, HopTime, Results
from collab.emulation.summary import summarise
from collab.errors import InputError

REQUESTS: Final = "requests.csv"
LINKS: Final = "links.csv"
RUN: Final = "run.json"
SUMMARY: Final = "summary.json"

_REQUEST = (
    *("plan", "repetition", "request", "requester", "start_ms", "latency_ms", "outcome"),
    *("attempts", "hedged", "path", "hops"),
)
_LINK = ("plan", "repetition", "leg", "packets", "bytes", "dropped")


def write_results(folder: Path, results: Results) -> None:
    """Write a folder anew; raises `InputError`.

    ``requests.csv`` has a row for each request; its ``hops`` are ``stage@node:queue:decode:compute:encode``
    in ms, joined by ``;``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / REQUESTS, _REQUEST, map(_request_row, results.askings))
        _write(folder / LINKS, _LINK, map(_link_row, results.carried))
        head = replace(results, askings=(), carried=())
        (folder / RUN).write_bytes(msgspec.json.format(msgspec.json.encode(head), indent=1))
        (folder / SUMMARY).write_text(json.dumps(summarise(results), indent=1, ensure_ascii=False), "utf-8")
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from error


def _write(path: Path, names: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def _request_row(asking: Asking) -> tuple[Any, ...]:
    hops = ";".join(
        f"{h.stage}@{h.node}:{h.queue_ms:g}:{h.decode_ms:g}:{h.compute_ms:g}:{h.encode_ms:g}"
        for h in asking.hops
    )
    head = (getattr(asking, name) for name in _REQUEST[:8])
    return (*head, int(asking.hedged), " ".join(asking.path), hops)


def _link_row(entry: Carried) -> tuple[Any, ...]:
    dropped = ";".join(f"{reason}:{count}" for reason, count in sorted(entry.dropped.items()))
    return (entry.plan, entry.repetition, entry.leg, entry.packets, entry.bytes, dropped)


def read_results(folder: Path) -> Results:
    """Results of a folder; raises `InputError` that names the file, and the line of a broken row."""
    try:
        head = msgspec.json.decode((folder / RUN).read_bytes(), type=Results)
    except OSError as error:
        raise InputError(f"{folder}: {RUN} cannot be read: {error.strerror}; give a run's folder") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / RUN}: {error}") from error
    return replace(
        head,
        askings=tuple(_rows(folder / REQUESTS, _REQUEST, _request)),
        carried=tuple(_rows(folder / LINKS, _LINK, _link)),
    )


def _rows(path: Path, names: tuple[str, ...], make: Callable[..., Any]) -> Iterator[Any]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != names:
                raise InputError(f"{path}: line 1: the columns are not {', '.join(names)}")
            for row in reader:
                try:
                    yield make(*row)
                except (ValueError, TypeError) as error:
                    raise InputError(f"{path}: line {reader.line_num}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _request(
    plan: str,
    repetition: str,
    request: str,
    requester: str,
    start_ms: str,
    latency_ms: str,
    outcome: str,
    attempts: str,
    hedged: str,
    path: str,
    hops: str,
) -> Asking:
    return Asking(
        plan,
        int(repetition),
        int(request),
        requester,
        float(start_ms),
        float(latency_ms),
        outcome,
        int(attempts),
        hedged == "1",
        tuple(path.split()),
        tuple(map(_hop, filter(None, hops.split(";")))),
    )


def _hop(text: str) -> HopTime:
    where, *times = text.rsplit(":", 4)
    stage, _, node = where.partition("@")
    queue, decode, compute, encode = map(float, times)
    return HopTime(stage, node, queue, decode, compute, encode)


def _link(plan: str, repetition: str, leg: str, packets: str, size: str, dropped: str) -> Carried:
    pairs = (entry.partition(":") for entry in filter(None, dropped.split(";")))
    return Carried(
        plan, int(repetition), leg, int(packets), int(size), {reason: int(n) for reason, _, n in pairs}
    )
