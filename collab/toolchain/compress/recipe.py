"""Recipes: which techniques, in which order, with which settings, as one line of text.

    structured:0.5 -> distil:epochs=2 -> int8

A technique's first setting needs no name.  Pure: no library is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from collab.errors import UsageError

Kind = Literal["keras", "tfmot", "litert"]
"""What a technique works on: a Keras model here, one in a process with tfmot, a ``.tflite``."""

ARROW: Final = "->"
MAX_STEPS: Final = 8
MAX_TEXT: Final = 500
"""Characters of a recipe."""


@dataclass(frozen=True)
class Setting:
    """A number with its bounds, both allowed, or one of some words."""

    default: float | str
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Technique:
    """What can stand in a recipe."""

    kind: Kind
    says: str
    settings: Mapping[str, Setting]


_EPOCHS: Final = Setting(2.0, 0.0, 1000.0)
_RATE: Final = Setting(1e-3, 1e-6, 1.0)

TECHNIQUES: Final[Mapping[str, Technique]] = {
    "structured": Technique(
        "keras",
        "take out a share of the channels, then train on",
        {
            "share": Setting(0.5, 0.0, 0.95),
            "by": Setting("l1", words=("l1", "scale", "activation")),
            "epochs": _EPOCHS,
            "rate": _RATE,
        },
    ),
    "merge": Technique(
        "keras",
        "fold batch norms, make one of similar neurons, then train on",
        {"share": Setting(0.25, 0.0, 0.95), "epochs": _EPOCHS, "rate": Setting(3e-4, 1e-6, 1.0)},
    ),
    "distil": Technique(
        "keras",
        "train by the answers of the model that it began with; below 1, a smaller one of fresh weights",
        {
            "width": Setting(1.0, 0.05, 4.0),
            "depth": Setting(1.0, 0.0, 1.0),
            "epochs": Setting(4.0, 0.0, 1000.0),
            "rate": Setting(2e-3, 1e-6, 1.0),
        },
    ),
    "finetune": Technique("keras", "train on", {"epochs": _EPOCHS, "rate": _RATE}),
    "prune": Technique(
        "tfmot",
        "set a share of the weights to zero, more and more of them while it trains",
        {"share": Setting(0.8, 0.0, 0.99), "epochs": _EPOCHS, "rate": _RATE},
    ),
    "cluster": Technique(
        "tfmot",
        "let every layer have a few different weights only",
        {
            "values": Setting(16, 2, 256),
            "epochs": Setting(1.0, 0.0, 1000.0),
            "rate": Setting(1e-4, 1e-6, 1.0),
        },
    ),
    "qat": Technique(
        "tfmot",
        "train under int8 rounding, then int8",
        {"epochs": Setting(1.0, 0.0, 1000.0), "rate": Setting(2e-4, 1e-6, 1.0)},
    ),
    "dynamic": Technique("litert", "int8 weights, activations rounded as they come", {}),
    "fp16": Technique("litert", "half-precision weights", {}),
    "int8": Technique("litert", "int8 weights and activations", {"images": Setting(200, 1, 100_000)}),
    "mixed": Technique(
        "litert",
        "int8, but for the operators that it harms most",
        {"loss": Setting(0.01, 0.0, 10.0), "images": Setting(200, 1, 100_000)},
    ),
}
_SPOILED_BY_TRAINING: Final = ("prune", "cluster")


@dataclass(frozen=True)
class Step:
    """One technique with all of its settings."""

    technique: str
    settings: Mapping[str, float | str]

    @property
    def kind(self) -> Kind:
        """What it works on."""
        return TECHNIQUES[self.technique].kind

    def number(self, name: str) -> float:
        """A setting that is a number."""
        return float(self.settings[name])

    def __str__(self) -> str:
        known = TECHNIQUES[self.technique].settings
        said = [
            (name, value)
            for name, value in self.settings.items()
            if value != known[name].default or name in _SHOWN
        ]
        first = next(iter(known), "")
        words = [_word(value) if name == first else f"{name}={_word(value)}" for name, value in said]
        return f"{self.technique}:{','.join(words)}" if words else self.technique


_SHOWN: Final = ("share", "values")
"""Settings that are always said: they are what a technique is about."""


@dataclass(frozen=True)
class Recipe:
    """Steps one after another; none is the baseline."""

    steps: tuple[Step, ...]

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f" {ARROW} ".join(map(str, self.steps)) or "baseline"

    @property
    def epochs(self) -> float:
        """Of all trainings in it."""
        return sum(step.number("epochs") for step in self.steps if "epochs" in step.settings)

    @property
    def has_student(self) -> bool:
        """Whether a smaller network of fresh weights is trained."""
        return any(
            step.technique == "distil" and (step.number("width") != 1 or step.number("depth") != 1)
            for step in self.steps
        )

    def at_effort(self, share: float) -> Recipe:
        """The same with a share of every training's epochs."""
        return Recipe(
            tuple(
                Step(step.technique, {**step.settings, "epochs": step.number("epochs") * share})
                if "epochs" in step.settings
                else step
                for step in self.steps
            )
        )


def parse(text: str) -> Recipe:
    """Read a recipe; raises `UsageError` that names what is wrong and what is nearest to it."""
    if len(text) > MAX_TEXT:
        raise UsageError(f"recipe of {len(text)} characters: over {MAX_TEXT}")
    if text.strip() == "baseline":
        return Recipe(())
    steps = tuple(_step(part.strip()) for part in text.split(ARROW))
    if len(steps) > MAX_STEPS:
        raise UsageError(f"recipe {text!r}: has {len(steps)} steps, over {MAX_STEPS}")
    _check_order(text, steps)
    return Recipe(steps)


def _step(part: str) -> Step:
    name, _, words = part.partition(":")
    name = name.strip()
    if name not in TECHNIQUES:
        raise UsageError(f"recipe step {part!r}: there is no technique {name!r}{_nearest(name, TECHNIQUES)}")
    known = TECHNIQUES[name].settings
    settings = {key: setting.default for key, setting in known.items()}
    for at, word in enumerate(filter(None, (each.strip() for each in words.split(",")))):
        key, equals, value = word.partition("=")
        if not equals:
            key, value = next(iter(known), ""), word
            if at or not key:
                raise UsageError(f"recipe step {part!r}: say which setting {word!r} is, as name={word}")
        key = key.strip()
        if key not in known:
            raise UsageError(f"recipe step {part!r}: {name} has no setting {key!r}{_nearest(key, known)}")
        settings[key] = _value(part, key, value.strip(), known[key])
    return Step(name, settings)


def _value(part: str, key: str, text: str, setting: Setting) -> float | str:
    if setting.words:
        if text not in setting.words:
            raise UsageError(f"recipe step {part!r}: {key} is one of {', '.join(setting.words)}")
        return text
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"recipe step {part!r}: {key}={text} is no number") from error
    if not setting.low <= value <= setting.high:
        raise UsageError(f"recipe step {part!r}: {key} goes from {setting.low:g} to {setting.high:g}")
    return value


def _check_order(text: str, steps: tuple[Step, ...]) -> None:
    for before in steps[:-1]:
        if before.kind == "litert":
            raise UsageError(f"recipe {text!r}: {before.technique} makes a .tflite, so it comes last")
        if before.technique == "qat":
            raise UsageError(f"recipe {text!r}: qat ends with int8, so it comes last")
    names = [step.technique for step in steps]
    for at, name in enumerate(names):
        spoiler = next((each for each in names[at + 1 :] if TECHNIQUES[each].kind != "litert"), None)
        if name in _SPOILED_BY_TRAINING and spoiler is not None and (name, spoiler) != ("prune", "cluster"):
            raise UsageError(
                f"recipe {text!r}: training in {spoiler} would undo {name}; put {name} behind it, "
                "or end with int8"
            )


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; use one of {', '.join(known)}"


def _word(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


DEFAULT_RECIPES: Final = (
    "fp16",
    "dynamic",
    "int8",
    "mixed",
    "qat",
    "prune:0.8 -> int8",
    "cluster:16 -> int8",
    "merge:0.25 -> int8",
    "structured:0.5 -> int8",
    "structured:0.5 -> distil -> int8",
    "structured:0.6 -> distil -> qat",
    "structured:0.5 -> prune:0.5 -> int8",
    "structured:0.7 -> distil -> int8",
    "distil:0.5 -> int8",
    "distil:0.6,depth=0.5 -> int8",
    "distil:1.4,depth=0.5 -> int8",
)
"""What a search begins with."""
