"""``preprocessing.h``: shapes, labels and the arithmetic of the preprocessing in C++11."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from collab.core.preprocessing import Category, ImageSteps, TableSteps, WindowSteps
from collab.toolchain.snippets.facts import (
    Facts,
    about_resizing,
    columns_of,
    fill,
    float32,
    float64,
    image_values,
    joined,
    window_values,
)

_HEADER: Final = """\
// Generated from a packaged model, digest @digest@. Do not edit.
#ifndef @guard@_PREPROCESSING_H_
#define @guard@_PREPROCESSING_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace @name@ {

constexpr int kInputCount = @input_count@;
constexpr int kOutputCount = @output_count@;
constexpr int kOutputIndex = @output_index@;
constexpr int kLabelCount = @label_count@;
static const char* const kLabels[] = {@labels@};

typedef @input_type@ Input;
typedef @output_type@ Output;

@body@
// A real number as the model's input takes it.
inline Input ToInput(float x) {
@to_input@
}

// What an element of the model's output stands for.
inline float FromOutput(Output q) {
@from_output@
}

// The place of the largest score.
inline int Best(const float* scores) {
  int best = 0;
  for (int i = 1; i < kOutputCount; ++i) {
    if (scores[i] > scores[best]) best = i;
  }
  return best;
}

}  // namespace @name@

#endif  // @guard@_PREPROCESSING_H_
"""

_IMAGE: Final = """\
constexpr int kHeight = @height@;
constexpr int kWidth = @width@;
constexpr int kChannels = @channels@;
constexpr float kScale = @scale@;
static const float kShift[kChannels] = {@shift@};
static const float kSpread[kChannels] = {@spread@};
typedef uint8_t Raw;

// `pixels` is kHeight x kWidth x kChannels: @resizing@
inline bool Prepare(const Raw* pixels, float* out) {
  for (int i = 0; i < kHeight * kWidth; ++i) {
    for (int c = 0; c < kChannels; ++c) {
      float x = static_cast<float>(pixels[i * kChannels + c]);
      x = x / kScale;
      x = (x - kShift[c]) / kSpread[c];
      out[@place@] = x;
    }
  }
  return true;
}
"""

_TABLE: Final = """\
struct Column {
  const char* name;
  int places;  // 0 is a number, -1 the number of a category, else so many categories, one-hot
  bool has_fill;
  double fill, low, high, shift, width;
};

constexpr int kColumnCount = @count@;
static const Column kColumns[kColumnCount] = {
@columns@
};
@categories@typedef double Raw;

// `values` has one for each column: a number, or a category's place in its list and -1 for
// another one; NAN is missing. False if one is missing that nothing stands for.
inline bool Prepare(const Raw* values, float* out) {
  int place = 0;
  for (int i = 0; i < kColumnCount; ++i) {
    const Column& column = kColumns[i];
    double x = values[i];
    if (std::isnan(x)) {
      if (!column.has_fill) return false;
      x = column.fill;
    }
    if (column.places > 0) {
      for (int k = 0; k < column.places; ++k) out[place++] = k == static_cast<int>(x) ? 1.0f : 0.0f;
      continue;
    }
    if (x < column.low) x = column.low;
    if (x > column.high) x = column.high;
    out[place++] = static_cast<float>((x - column.shift) / column.width);
  }
  return true;
}
"""

_WINDOW: Final = """\
constexpr int kLength = @length@;
constexpr int kStep = @step@;
constexpr int kChannels = @channels@;
static const double kLow[kChannels] = {@low@};
static const double kHigh[kChannels] = {@high@};
static const double kShift[kChannels] = {@shift@};
static const double kSpread[kChannels] = {@spread@};
typedef double Raw;

inline double Scaled(const Raw* samples, int at, int c) {
  double x = samples[at * kChannels + c];
  if (x < kLow[c]) x = kLow[c];
  if (x > kHigh[c]) x = kHigh[c];
  return (x - kShift[c]) / kSpread[c];
}

// `samples` is kLength x kChannels (@names@).
inline bool Prepare(const Raw* samples, float* out) {
  for (int c = 0; c < kChannels; ++c) {
@feature@
  }
  return true;
}
"""

_FEATURES: Final = {
    "raw": """\
    for (int t = 0; t < kLength; ++t) out[t * kChannels + c] = static_cast<float>(Scaled(samples, t, c));""",
    "moments": """\
    double sum = 0, least = Scaled(samples, 0, c), greatest = least, squares = 0;
    for (int t = 0; t < kLength; ++t) {
      const double x = Scaled(samples, t, c);
      sum += x;
      if (x < least) least = x;
      if (x > greatest) greatest = x;
    }
    const double mean = sum / kLength;
    for (int t = 0; t < kLength; ++t) {
      const double x = Scaled(samples, t, c) - mean;
      squares += x * x;
    }
    out[c] = static_cast<float>(mean);
    out[kChannels + c] = static_cast<float>(std::sqrt(squares / kLength));
    out[2 * kChannels + c] = static_cast<float>(least);
    out[3 * kChannels + c] = static_cast<float>(greatest);""",
    "spectrum": """\
    // By definition; an FFT of the platform is quicker.
    for (int k = 0; k <= kLength / 2; ++k) {
      double re = 0, im = 0;
      for (int t = 0; t < kLength; ++t) {
        const double angle = 6.283185307179586 * ((static_cast<int64_t>(k) * t) % kLength) / kLength;
        const double x = Scaled(samples, t, c);
        re += x * std::cos(angle);
        im -= x * std::sin(angle);
      }
      out[k * kChannels + c] = static_cast<float>(std::sqrt(re * re + im * im) / kLength);
    }""",
}


def preprocessing_header(facts: Facts) -> str:
    """The file."""
    return fill(
        _HEADER,
        digest=facts.digest,
        guard=facts.name.upper(),
        name=facts.name,
        input_count=facts.input_count,
        output_count=facts.output_count,
        output_index=facts.output_index,
        label_count=len(facts.labels),
        labels=joined(map(c_string, facts.labels or ("",))),
        input_type=C_TYPES[facts.input.dtype],
        output_type=C_TYPES[facts.output.dtype],
        body=_body(facts),
        to_input=_to_input(facts),
        from_output=_from_output(facts),
    )


C_TYPES: Final = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t"}


def c_string(text: str) -> str:
    """A literal that every C++ compiler reads alike."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _body(facts: Facts) -> str:
    steps = facts.steps
    if isinstance(steps, ImageSteps):
        return fill(
            _IMAGE,
            **image_values(steps, "f"),
            resizing=about_resizing(steps).replace(". ", ".\n// "),
            place="i * kChannels + c" if steps.layout == "hwc" else "c * kHeight * kWidth + i",
        )
    if isinstance(steps, TableSteps):
        return fill(
            _TABLE,
            count=len(steps.columns),
            columns="\n".join(map(_column, columns_of(steps))),
            categories="".join(_categories(steps)),
        )
    return _window(steps)


def _column(column: tuple[str, int, float | None, float, float, float, float]) -> str:
    name, places, filled, *numbers = column
    has = "false" if filled is None else "true"
    return f"    {{{c_string(name)}, {places}, {has}, {', '.join(map(float64, (filled or 0.0, *numbers)))}}},"


def _categories(steps: TableSteps) -> Sequence[str]:
    return [
        f"// Column {i}.\nstatic const char* const kCategories{i}[] = {{{names}}};\n"
        for i, column in enumerate(steps.columns)
        if isinstance(column, Category) and (names := joined(map(c_string, column.values)))
    ]


def _window(steps: WindowSteps) -> str:
    return fill(
        _WINDOW,
        **window_values(steps, "1.7976931348623157e308"),
        names=", ".join(" ".join(name.split()) for name in steps.channels[:20]),
        feature=_FEATURES[steps.feature],
    )


def _to_input(facts: Facts) -> str:
    given = facts.input.quantisation
    if given is None:
        return "  return x;"
    least, most = (-128, 127) if facts.input.dtype == "int8" else (0, 255)
    return (
        f"  const float q = std::round(x / {float32(given.scale, 'f')}) + {float32(given.zero_point, 'f')};\n"
        f"  return static_cast<Input>(q < {least}.0f ? {least} : q > {most}.0f ? {most} : q);"
    )


def _from_output(facts: Facts) -> str:
    given = facts.output.quantisation
    if given is None:
        return "  return static_cast<float>(q);"
    return (
        f"  return (static_cast<float>(q) - {float32(given.zero_point, 'f')}) * {float32(given.scale, 'f')};"
    )
