"""One HTML file without anything outside of it, for runs of the emulator and of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from collab.emulation.compare import Pair, compare
from collab.emulation.plots import hop_stack, latency_cdf, predicted_and_run, throughput_over_time
from collab.emulation.results import Results
from collab.emulation.summary import summarise

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse }
th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
.note { background: #fff3cd; padding: .4em .8em }
"""


def report(results: Results) -> str:
    """The report of one run."""
    summary = summarise(results)
    parts = [f"<h1>{escape(results.scenario)}, {results.kind}</h1>", f"<p>Seed {results.seed}.</p>"]
    if results.partial:
        parts.append('<p class="note">Stopped before its end: figures are of what was done until then.</p>')
    parts += [f'<p class="note">{escape(note)}</p>' for note in results.notes]
    parts += ["<h2>Plans</h2>", _plans(summary["plans"])]
    curves = {run.name: results.of(run.name) for run in results.plans}
    parts += ["<h2>Latency</h2>", latency_cdf(curves)]
    parts += ["<h2>Where the time goes</h2>", hop_stack(results)]
    parts += ["<h2>Throughput over time</h2>", throughput_over_time(results)]
    if any(run.predicted_ms is not None for run in results.plans):
        parts += [f"<h2>Predicted and {results.kind}</h2>", predicted_and_run(results)]
    if results.marks:
        rows = [(f"{mark.at_ms / 1000:g}", mark.text) for mark in results.marks]
        parts += ["<h2>Faults and changes</h2>", _table(("s", "what"), rows)]
    parts += ["<h2>Links</h2>", _links(summary["plans"])]
    return _page(f"{results.scenario}, {results.kind}", parts)


def comparison(first: Results, second: Results, names: tuple[str, str]) -> str:
    """Two runs beside each other."""
    pairs = compare(first, second)
    curves = {
        f"{plan}, {name}": run.of(plan)
        for plan in dict.fromkeys(pair.plan for pair in pairs)
        for name, run in zip(names, (first, second), strict=True)
    }
    parts = [
        f"<h1>{escape(names[0])} and {escape(names[1])}</h1>",
        _table(("plan", "figure", *names, "ratio"), [_pair(pair) for pair in pairs]),
        "<h2>Latency</h2>",
        latency_cdf(curves),
    ]
    return _page(f"{names[0]} and {names[1]}", parts)


def _pair(pair: Pair) -> tuple[object, ...]:
    return (pair.plan, pair.figure, pair.first, pair.second, pair.ratio)


def _plans(plans: Sequence[dict[str, Any]]) -> str:
    head = (
        "plan",
        "predicted ms",
        "p50",
        "p95",
        "p99",
        "answers/s",
        "requests",
        "failed",
        "deadline misses",
        "retries",
    )
    return _table(
        head,
        [
            (
                plan["plan"],
                plan["predicted_ms"],
                plan["latency_ms"]["p50"],
                plan["latency_ms"]["p95"],
                plan["latency_ms"]["p99"],
                plan["throughput_rps"],
                plan["requests"],
                plan["failed"],
                plan["deadline_misses"],
                plan["retries"],
            )
            for plan in plans
        ],
    )


def _links(plans: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            f"{plan['plan']}: {link['leg']}",
            link["packets"],
            f"{link['bytes'] / 1e6:.3f}",
            ", ".join(f"{count} {reason}" for reason, count in link["dropped"].items()),
        )
        for plan in plans
        for link in plan["links"][:_MOST_LINKS]
    ]
    return _table(("direction", "packets", "MB", "dropped"), rows)


_MOST_LINKS: Final = 200
"""Of a plan in the report; the CSV has all."""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _page(title: str, parts: Sequence[str]) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</html>", ""])
