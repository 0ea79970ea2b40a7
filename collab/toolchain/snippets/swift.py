"""Swift for iOS, on LiteRT's ``TensorFlowLiteSwift`` pod."""

from __future__ import annotations

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

_CLASS: Final = """\
// Generated from a packaged model, digest @digest@.
// Podfile: pod 'TensorFlowLiteSwift'; add model.tflite to the target.
import Foundation
import TensorFlowLite

/// Runs the model; one thread at a time.
final class @type@ {
  static let inputCount = @input_count@
  static let outputCount = @output_count@
  static let outputIndex = @output_index@
  static let labels: [String] = [@labels@]

  private let interpreter: Interpreter

  init(modelPath: String, threads: Int = 1) throws {
    var options = Interpreter.Options()
    options.threadCount = threads
    interpreter = try Interpreter(modelPath: modelPath, options: options)
    try interpreter.allocateTensors()
  }

  /// Scores by class; nil if a value is missing that nothing stands for.
  func run(_ raw: [@raw@]) throws -> [Float]? {
    guard let prepared = Self.prepare(raw) else { return nil }
    let input: [@input_type@] = prepared.map { x in @put@ }
    try interpreter.copy(input.withUnsafeBytes { Data($0) }, toInputAt: 0)
    try interpreter.invoke()
    let output = try interpreter.output(at: Self.outputIndex).data
    return output.withUnsafeBytes { bytes in
      Array(bytes.bindMemory(to: @output_type@.self)).map { q in @get@ }
    }
  }

@body@}
"""

_IMAGE: Final = """\
  static let height = @height@
  static let width = @width@
  static let channels = @channels@
  private static let scale: Float = @scale@
  private static let shift: [Float] = [@shift@]
  private static let spread: [Float] = [@spread@]

  /// `pixels` is height x width x channels: @resizing@
  static func prepare(_ pixels: [UInt8]) -> [Float]? {
    var out = [Float](repeating: 0, count: inputCount)
    for i in 0..<(height * width) {
      for c in 0..<channels {
        let x = Float(pixels[i * channels + c]) / scale
        out[@place@] = (x - shift[c]) / spread[c]
      }
    }
    return out
  }
"""

_TABLE: Final = """\
  private struct Column {
    let name: String
    let places: Int
    let fill: Double?
    let low: Double
    let high: Double
    let shift: Double
    let width: Double
  }

  private static let columns: [Column] = [
@columns@
  ]

  /// Names of the categories, by column.
  static let categories: [Int: [String]] = [@categories@]

  /// `values` has one for each column: a number, or a category's place in its list and -1 for
  /// another one; NaN is missing. Nil if one is missing that nothing stands for.
  static func prepare(_ values: [Double]) -> [Float]? {
    var out: [Float] = []
    for (i, column) in columns.enumerated() {
      var x = values[i]
      if x.isNaN {
        guard let fill = column.fill else { return nil }
        x = fill
      }
      if column.places > 0 {
        for k in 0..<column.places { out.append(k == Int(x) ? 1 : 0) }
      } else {
        out.append(Float((min(max(x, column.low), column.high) - column.shift) / column.width))
      }
    }
    return out
  }
"""

_WINDOW: Final = """\
  static let length = @length@
  static let step = @step@
  static let channels = @channels@
  private static let low: [Double] = [@low@]
  private static let high: [Double] = [@high@]
  private static let shift: [Double] = [@shift@]
  private static let spread: [Double] = [@spread@]

  /// `samples` is length x channels.
  static func prepare(_ samples: [Double]) -> [Float]? {
    var out = [Float](repeating: 0, count: inputCount)
    for c in 0..<channels {
      let x = (0..<length).map { t in
        (min(max(samples[t * channels + c], low[c]), high[c]) - shift[c]) / spread[c]
      }
@feature@
    }
    return out
  }
"""

_FEATURES: Final = {
    "raw": "      for t in 0..<length { out[t * channels + c] = Float(x[t]) }",
    "moments": """\
      let mean = x.reduce(0, +) / Double(length)
      let squares = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
      out[c] = Float(mean)
      out[channels + c] = Float((squares / Double(length)).squareRoot())
      out[2 * channels + c] = Float(x.min()!)
      out[3 * channels + c] = Float(x.max()!)""",
    "spectrum": """\
      // By definition; vDSP is quicker.
      for k in 0...(length / 2) {
        var re = 0.0
        var im = 0.0
        for t in 0..<length {
          let angle = 2 * Double.pi * Double((k * t) % length) / Double(length)
          re += x[t] * cos(angle)
          im -= x[t] * sin(angle)
        }
        out[k * channels + c] = Float((re * re + im * im).squareRoot() / Double(length))
      }""",
}

_TYPES: Final = {"float32": "Float", "int8": "Int8", "uint8": "UInt8"}


def swift_files(facts: Facts, model: bytes) -> dict[str, bytes]:
    """For iOS."""
    source = fill(
        _CLASS,
        digest=facts.digest,
        type=facts.type_name,
        raw="UInt8" if isinstance(facts.steps, ImageSteps) else "Double",
        input_type=_TYPES[facts.input.dtype],
        output_type=_TYPES[facts.output.dtype],
        put=_put(facts),
        get=_get(facts),
        input_count=facts.input_count,
        output_count=facts.output_count,
        output_index=facts.output_index,
        labels=joined(map(swift_string, facts.labels)),
        body=_body(facts),
    )
    return {f"{facts.type_name}.swift": source.encode(), "model.tflite": model}


def swift_string(text: str) -> str:
    """A literal."""
    plain = set(range(32, 127)) - set(map(ord, '"\\'))
    return '"' + "".join(c if ord(c) in plain else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def _put(facts: Facts) -> str:
    given = facts.input.quantisation
    if given is None:
        return "x"
    least, most = (-128, 127) if facts.input.dtype == "int8" else (0, 255)
    kind = _TYPES[facts.input.dtype]
    rounded = f"(x / {float32(given.scale)}).rounded(.toNearestOrAwayFromZero) + {float32(given.zero_point)}"
    return f"{kind}(min(max({rounded}, {least}), {most}))"


def _get(facts: Facts) -> str:
    given = facts.output.quantisation
    return "q" if given is None else f"(Float(q) - {float32(given.zero_point)}) * {float32(given.scale)}"


def _body(facts: Facts) -> str:
    steps = facts.steps
    if isinstance(steps, ImageSteps):
        return fill(
            _IMAGE,
            **image_values(steps),
            resizing=about_resizing(steps),
            place="i * channels + c" if steps.layout == "hwc" else "c * height * width + i",
        )
    if isinstance(steps, TableSteps):
        return fill(_TABLE, columns=_columns(steps), categories=_categories(steps))
    return _window(steps)


def _columns(steps: TableSteps) -> str:
    fields = ("low", "high", "shift", "width")
    return "\n".join(
        f"    Column(name: {swift_string(name)}, places: {places}, fill: {float64(filled, 'nil')}, "
        + ", ".join(f"{field}: {float64(value)}" for field, value in zip(fields, numbers, strict=True))
        + "),"
        for name, places, filled, *numbers in columns_of(steps)
    )


def _categories(steps: TableSteps) -> str:
    lists = [
        f"{i}: [{joined(map(swift_string, column.values))}]"
        for i, column in enumerate(steps.columns)
        if isinstance(column, Category)
    ]
    return ",\n    ".join(lists) or ":"


def _window(steps: WindowSteps) -> str:
    return fill(
        _WINDOW,
        **window_values(steps, "Double.greatestFiniteMagnitude"),
        feature=_FEATURES[steps.feature],
    )
