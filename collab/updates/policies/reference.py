"""``reference.json``: what a model's inputs and answers are like on the data that it was made with.

A device takes the same few numbers, the features, of what it sees and counts them in the bins written here;
the inputs themselves are neither in the file nor kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import InputError
from collab.updates.policies.drift import Reference, reference_of
from collab.updates.policies.state import MAX_BINS, MAX_FEATURES

VERSION: Final = 1
MAX_REFERENCE_BYTES: Final = 1 << 20
MAX_CHANNELS: Final = 16
"""Longer last axes are no channels."""
MAX_VALUES: Final = 4_096
"""Of larger tensors every n-th value is looked at."""
_MAX_NAME: Final = 200

Array = NDArray[Any]


class Feature(Frozen, frozen=True, kw_only=True):
    """One number of an input: inner edges of its bins, and how many examples fell into each."""

    input: str
    feature: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def name(self) -> str:
        """As states name it."""
        return f"{self.input}:{self.feature}"

    @property
    def reference(self) -> Reference:
        """For counting."""
        return Reference(self.name, self.edges, self.counts)


class ReferenceFile(Frozen, frozen=True, kw_only=True):
    """The file.

    Attributes:
        examples: that the features were taken of.
        accuracy: of the model on examples held out, None where nobody knows.
        confidence: mean probability of the best class there; ``margin`` its distance to the second.
    """

    version: int = VERSION
    examples: int
    features: tuple[Feature, ...] = ()
    accuracy: Union[float, None] = None
    confidence: Union[float, None] = None
    margin: Union[float, None] = None

    def check(self) -> ReferenceFile:
        """Return self, or raise `InputError` that names the field."""
        if self.version != VERSION:
            raise InputError(f"version {self.version}, this collab reads {VERSION}; use a newer collab")
        if len(self.features) > MAX_FEATURES:
            raise InputError(f"features: {len(self.features)} are over {MAX_FEATURES}")
        for feature in self.features:
            _check(feature)
        if len({feature.name for feature in self.features}) != len(self.features):
            raise InputError("features: one is there twice")
        for field in ("accuracy", "confidence", "margin"):
            share = getattr(self, field)
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"{field}: {share} is not within 0 to 1")
        return self


def _check(feature: Feature) -> None:
    where = f"features: {feature.name[:80]!r}"
    if len(feature.name) > _MAX_NAME:
        raise InputError(f"{where}: over {_MAX_NAME} characters")
    if not 2 <= len(feature.counts) <= MAX_BINS or len(feature.edges) != len(feature.counts) - 1:
        raise InputError(f"{where}: give 2 to {MAX_BINS} counts, and one edge less")
    if any(a >= b for a, b in zip(feature.edges, feature.edges[1:], strict=False)):
        raise InputError(f"{where}: its edges do not rise")
    if not all(math.isfinite(x) for x in feature.edges) or not all(0 <= x < math.inf for x in feature.counts):
        raise InputError(f"{where}: edges are finite, counts at least 0")


def encode_reference(reference: ReferenceFile) -> bytes:
    """The file's bytes: the same for the same content."""
    fields = {"version": reference.version} | msgspec.to_builtins(reference)
    return msgspec.json.encode(fields, order="deterministic") + b"\n"


def decode_reference(data: bytes, what: str) -> ReferenceFile:
    """Read and check the file; raises `InputError`."""
    if len(data) > MAX_REFERENCE_BYTES:
        raise InputError(f"{what}: {len(data)} bytes are over {MAX_REFERENCE_BYTES}")
    try:
        return msgspec.json.decode(data, type=ReferenceFile).check()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise InputError(f"{what}: {error}") from error


def features_of(shape: Sequence[int]) -> dict[str, Callable[[Array], float]]:
    """The features of a tensor by its shape, with its batch axis of 1, and how each is taken.

    Of up to 64 values each is a feature; of more the mean, the standard deviation, the least and the largest,
    and the mean of each channel of a last axis of 2 to 16.  Values are those that the model is given.
    """
    size = math.prod(shape)
    if size <= MAX_FEATURES:
        return {f"value-{i}": _value(i) for i in range(size)}
    found: dict[str, Callable[[Array], float]] = {
        "mean": lambda values: float(values.mean()),
        "std": lambda values: float(values.std()),
        "min": lambda values: float(values.min()),
        "max": lambda values: float(values.max()),
    }
    if 2 <= shape[-1] <= MAX_CHANNELS:
        found |= {f"channel-{i}": _channel(i) for i in range(shape[-1])}
    return found


def _value(place: int) -> Callable[[Array], float]:
    return lambda values: float(values.flat[place])


def _channel(place: int) -> Callable[[Array], float]:
    return lambda values: float(values[..., place].mean())


def looked_at(array: Array) -> Array:
    """What features are taken of: the values as float32, or of many every n-th along the channels."""
    if array.size <= MAX_VALUES:
        return array.astype(np.float32)
    last = array.shape[-1] if array.shape[-1] <= MAX_CHANNELS else 1
    rows = array.reshape(-1, last)
    step = -(-len(rows) * last // MAX_VALUES)
    width = array.shape[-2] if array.ndim > 2 else 1
    while math.gcd(step, width) > 1:  # it would look at some columns of an image only
        step += 1
    return rows[::step].astype(np.float32)


def reference_features(name: str, examples: Array, shape: Sequence[int], most: int) -> list[Feature]:
    """Features of an input of the given shape over examples that have it, and nothing before it.

    Those whose values do not differ are left out: nothing would be seen by them.
    """
    values = [looked_at(example.reshape(shape)) for example in examples]
    made = []
    for feature, take in features_of(shape).items():
        try:
            found = reference_of(f"{name}:{feature}", [take(one) for one in values])
        except InputError:
            continue
        made.append(Feature(input=name, feature=feature, edges=found.edges, counts=found.counts))
    return made[:most]


def takers(
    features: Sequence[Feature], shapes: Mapping[str, Sequence[int]]
) -> list[tuple[str, Callable[[Array], float]]]:
    """For each feature its input and how it is taken.

    Raises:
        InputError: an input has no such feature.
    """
    made = []
    for feature in features:
        known = features_of(shapes[feature.input]) if feature.input in shapes else {}
        if feature.feature not in known:
            raise InputError(f"the model's inputs have no feature {feature.name[:80]!r}")
        made.append((feature.input, known[feature.feature]))
    return made


prepare(ReferenceFile)
