"""What a snippet is filled in with."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from collab.core.preprocessing import (
    Category,
    ImageSteps,
    Scaling,
    Steps,
    TableSteps,
    WindowSteps,
)
from collab.errors import ModelError, UsageError
from collab.graph import Graph, custom_operators, parse_model
from collab.toolchain.devices.memory import lives, plan_arena
from collab.updates.bundle.answers import label_port
from collab.updates.bundle.inputs import check_input
from collab.updates.bundle.manifest import Port
from collab.updates.bundle.read import Bundle

_PLACE: Final = re.compile(r"@(\w+)@")
_DTYPES: Final = ("float32", "int8", "uint8")
ARENA_SLACK: Final = 16 << 10
"""Bytes of a microcontroller's arena beside tensors, and a quarter more for what its kernels keep."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A packaged model as code names it.

    Attributes:
        name: in lower case with underscores.
        type_name: the same as a type.
        operators: names of the operators that it needs, each once.
        arena_bytes: activations, with some slack.
    """

    name: str
    type_name: str
    digest: str
    input: Port
    output: Port
    output_index: int
    labels: tuple[str, ...]
    steps: Steps
    operators: tuple[str, ...]
    arena_bytes: int

    @classmethod
    def of(cls, bundle: Bundle) -> Facts:
        """Read from a bundle; raises `ModelError` or `UsageError` for what no snippet can run."""
        manifest, preprocessing, labels = bundle.manifest, bundle.preprocessing(), bundle.labels()
        if preprocessing is None:
            raise UsageError(
                f"{bundle.path}: has no preprocessing; package it with --data or --preprocessing"
            )
        check_input(manifest.inputs, preprocessing)
        output = label_port(manifest.outputs, len(labels)) if labels else manifest.outputs[0]
        for port in (manifest.inputs[0], output):
            if port.dtype not in _DTYPES:
                raise ModelError(f"tensor {port.name!r} is {port.dtype}; snippets know {', '.join(_DTYPES)}")
        graph = parse_model(bundle.model())
        words = re.findall(r"[A-Za-z0-9]+", manifest.about.name)
        name = "_".join(words).lower()
        return cls(
            name=name if name[0].isalpha() else f"model_{name}",
            type_name="".join(word[0].upper() + word[1:] for word in words if word)
            if words[0][0].isalpha()
            else f"Model{''.join(words)}",
            digest=bundle.digest,
            input=manifest.inputs[0],
            output=output,
            output_index=manifest.outputs.index(output),
            labels=labels,
            steps=preprocessing.steps,
            operators=_operators(graph),
            arena_bytes=_arena(graph),
        )

    @property
    def input_count(self) -> int:
        """Numbers of one example."""
        return math.prod(self.input.shape)

    @property
    def output_count(self) -> int:
        """Numbers of one answer."""
        return math.prod(self.output.shape)


def _operators(graph: Graph) -> tuple[str, ...]:
    if custom := custom_operators(graph):
        raise ModelError(f"operator {custom[0]!r} is a custom one, which no snippet registers")
    return tuple(sorted({operator.name for sub in graph.flat.subgraphs for operator in sub.operators}))


def _arena(graph: Graph) -> int:
    needed = plan_arena(lives(graph)).bytes * 5 // 4 + ARENA_SLACK
    return -(-needed // 1024) * 1024


def fill(template: str, **values: object) -> str:
    """Put values in place of ``@NAME@``; each has to be given."""
    return _PLACE.sub(lambda found: str(values[found[1]]), template)


def float32(value: float, suffix: str = "") -> str:
    """A number as source code that means exactly this float32."""
    text = f"{float(np.float32(value)):.9g}"
    return (text if re.search(r"[.e]", text) else f"{text}.0") + suffix


def float64(value: float | None, otherwise: str = "") -> str:
    """A number as source code that means exactly this float64."""
    return otherwise if value is None else repr(float(value))


def joined(parts: Iterable[str], width: int = 90) -> str:
    """A list over as many lines as it needs."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += f"{part}, "
    return "\n    ".join(line.rstrip() for line in lines).removesuffix(",")


def image_values(steps: ImageSteps, suffix: str = "") -> dict[str, object]:
    """What all languages fill in for pictures; ``suffix`` ends a literal of 32 bits."""
    shift, spread = scaling_of(steps)
    return {
        "height": steps.height,
        "width": steps.width,
        "channels": steps.channels,
        "scale": float32(steps.scale, suffix),
        "shift": joined(float32(x, suffix) for x in shift),
        "spread": joined(float32(x, suffix) for x in spread),
    }


def window_values(steps: WindowSteps, limit: str) -> dict[str, object]:
    """What all languages fill in for windows; ``limit`` is their largest number of 64 bits."""
    shift, spread = scaling_of(steps)
    count = len(steps.channels)
    return {
        "length": steps.length,
        "step": steps.step,
        "channels": count,
        "low": joined(float64(x, f"-{limit}") for x in steps.low or (None,) * count),
        "high": joined(float64(x, limit) for x in steps.high or (None,) * count),
        "shift": joined(map(float64, shift)),
        "spread": joined(map(float64, spread)),
    }


def scaling_of(steps: ImageSteps | WindowSteps) -> tuple[Sequence[float], Sequence[float]]:
    """Shift and width for each channel; 0 and 1 where nothing is scaled."""
    channels = steps.channels if isinstance(steps, ImageSteps) else len(steps.channels)
    scaling = steps.scaling or Scaling(method="standard", shift=(0.0,), width=(1.0,))
    shift, width = (
        numbers if len(numbers) == channels else numbers * channels
        for numbers in (scaling.shift, scaling.width)
    )
    return shift, width


def columns_of(steps: TableSteps) -> list[tuple[str, int, float | None, float, float, float, float]]:
    """Of each column: name, places (0: a number, -1: an ordinal), fill, low, high, shift, width."""
    limit = float(np.finfo(np.float64).max)
    made = []
    for column in steps.columns:
        if isinstance(column, Category):
            fill = None if column.fill is None else float(column.values.index(column.fill))
            places = len(column.values) if column.encoding == "one_hot" else -1
            made.append((column.name, places, fill, -limit, limit, 0.0, 1.0))
        else:
            low, high = (-limit if column.low is None else column.low), column.high
            high = limit if high is None else high
            made.append((column.name, 0, column.fill, low, high, column.shift, column.width))
    return made


def about_resizing(steps: Steps) -> str:
    """What an app has to do to a picture before its pixels are given."""
    if not isinstance(steps, ImageSteps):
        return ""
    cropped = "" if steps.crop == 1.0 else f", after the middle {steps.crop:.0%} of each side was cut out"
    how = "stretched to it" if steps.fit == "stretch" else "scaled to cover it, cropped from the middle"
    return (
        f"{steps.colour} pixels, upright, {steps.height} rows of {steps.width}, {how}{cropped}. "
        f"Training resized by Pillow's {steps.filter} filter; another resizer gives slightly other pixels."
    )
