"""Kotlin for Android, on LiteRT's interpreter."""

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
// Gradle: implementation("com.google.ai.edge.litert:litert:1.0.1"); put model.tflite into assets.
package collab.@name@

import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.*
import org.tensorflow.lite.Interpreter

/** Runs the model; one thread at a time. */
class @type@(model: ByteBuffer, threads: Int = 1) : Closeable {
    private val interpreter = Interpreter(model, Interpreter.Options().apply { numThreads = threads })
    private val prepared = FloatArray(INPUT_COUNT)
    private val input = buffer(INPUT_COUNT * @input_bytes@)
    private val output = buffer(OUTPUT_COUNT * @output_bytes@)

    /** Scores by class; null if a value is missing that nothing stands for. */
    fun run(raw: @raw@): FloatArray? {
        if (!prepare(raw, prepared)) return null
        input.rewind()
        for (x in prepared) @put@
        input.rewind()
        output.rewind()
        interpreter.runForMultipleInputsOutputs(arrayOf<Any>(input), mapOf<Int, Any>(OUTPUT_INDEX to output))
        output.rewind()
        return FloatArray(OUTPUT_COUNT) { @get@ }
    }

    override fun close() = interpreter.close()

    companion object {
        const val INPUT_COUNT = @input_count@
        const val OUTPUT_COUNT = @output_count@
        const val OUTPUT_INDEX = @output_index@
        val LABELS = arrayOf<String>(@labels@)

        private fun buffer(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

@body@
    }
}
"""

_IMAGE: Final = """\
        const val HEIGHT = @height@
        const val WIDTH = @width@
        const val CHANNELS = @channels@
        private const val SCALE = @scale@
        private val SHIFT = floatArrayOf(@shift@)
        private val SPREAD = floatArrayOf(@spread@)

        /** [pixels] is HEIGHT x WIDTH x CHANNELS: @resizing@ */
        fun prepare(pixels: ByteArray, out: FloatArray): Boolean {
            for (i in 0 until HEIGHT * WIDTH) for (c in 0 until CHANNELS) {
                val x = (pixels[i * CHANNELS + c].toInt() and 0xff).toFloat() / SCALE
                out[@place@] = (x - SHIFT[c]) / SPREAD[c]
            }
            return true
        }
"""

_TABLE: Final = """\
        private class Column(
            val name: String, val places: Int, val fill: Double?, val low: Double, val high: Double,
            val shift: Double, val width: Double,
        )

        private val COLUMNS = arrayOf(
@columns@
        )

        /** Names of the categories, by column. */
        val CATEGORIES = mapOf<Int, Array<String>>(
@categories@
        )

        /**
         * [values] has one for each column: a number, or a category's place in its list and -1 for
         * another one; NaN is missing. False if one is missing that nothing stands for.
         */
        fun prepare(values: DoubleArray, out: FloatArray): Boolean {
            var place = 0
            for ((i, column) in COLUMNS.withIndex()) {
                val x = if (values[i].isNaN()) column.fill ?: return false else values[i]
                if (column.places > 0) {
                    for (k in 0 until column.places) out[place++] = if (k == x.toInt()) 1f else 0f
                } else {
                    val clipped = x.coerceIn(column.low, column.high)
                    out[place++] = ((clipped - column.shift) / column.width).toFloat()
                }
            }
            return true
        }
"""

_WINDOW: Final = """\
        const val LENGTH = @length@
        const val STEP = @step@
        const val CHANNELS = @channels@
        private val LOW = doubleArrayOf(@low@)
        private val HIGH = doubleArrayOf(@high@)
        private val SHIFT = doubleArrayOf(@shift@)
        private val SPREAD = doubleArrayOf(@spread@)

        /** [samples] is LENGTH x CHANNELS. */
        fun prepare(samples: DoubleArray, out: FloatArray): Boolean {
            for (c in 0 until CHANNELS) {
                val x = DoubleArray(LENGTH) {
                    (samples[it * CHANNELS + c].coerceIn(LOW[c], HIGH[c]) - SHIFT[c]) / SPREAD[c]
                }
@feature@
            }
            return true
        }
"""

_FEATURES: Final = {
    "raw": "                for (t in 0 until LENGTH) out[t * CHANNELS + c] = x[t].toFloat()",
    "moments": """\
                val mean = x.sum() / LENGTH
                out[c] = mean.toFloat()
                out[CHANNELS + c] = sqrt(x.sumOf { (it - mean) * (it - mean) } / LENGTH).toFloat()
                out[2 * CHANNELS + c] = x.minOrNull()!!.toFloat()
                out[3 * CHANNELS + c] = x.maxOrNull()!!.toFloat()""",
    "spectrum": """\
                // By definition; an FFT is quicker.
                for (k in 0..LENGTH / 2) {
                    var re = 0.0
                    var im = 0.0
                    for (t in 0 until LENGTH) {
                        val angle = 2 * PI * ((k.toLong() * t) % LENGTH) / LENGTH
                        re += x[t] * cos(angle)
                        im -= x[t] * sin(angle)
                    }
                    out[k * CHANNELS + c] = (sqrt(re * re + im * im) / LENGTH).toFloat()
                }""",
}


def kotlin_files(facts: Facts, model: bytes) -> dict[str, bytes]:
    """For Android."""
    float_input, float_output = facts.input.dtype == "float32", facts.output.dtype == "float32"
    source = fill(
        _CLASS,
        digest=facts.digest,
        name=facts.name,
        type=facts.type_name,
        input_bytes=4 if float_input else 1,
        output_bytes=4 if float_output else 1,
        raw="ByteArray" if isinstance(facts.steps, ImageSteps) else "DoubleArray",
        put=_put(facts),
        get=_get(facts),
        input_count=facts.input_count,
        output_count=facts.output_count,
        output_index=facts.output_index,
        labels=joined(map(kotlin_string, facts.labels)),
        body=_body(facts),
    )
    return {f"{facts.type_name}.kt": source.encode(), "model.tflite": model}


def kotlin_string(text: str) -> str:
    """A literal; ``$`` begins a template in Kotlin."""
    plain = set(range(32, 127)) - set(map(ord, '"\\$'))
    units = text.encode("utf-16-be")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    return '"' + "".join(chr(code) if code in plain else f"\\u{code:04x}" for code in codes) + '"'


def _put(facts: Facts) -> str:
    given = facts.input.quantisation
    if given is None:
        return "input.putFloat(x)"
    least, most = (-128, 127) if facts.input.dtype == "int8" else (0, 255)
    scale, zero = float32(given.scale, "f"), float32(given.zero_point, "f")
    # Kotlin's round() sends halves to even numbers; LiteRT sends them away from zero.
    whole = f"(x / {scale}).let {{ truncate(it) + if (abs(it - truncate(it)) >= 0.5f) sign(it) else 0f }}"
    return f"input.put(({whole} + {zero}).coerceIn({least}f, {most}f).toInt().toByte())"


def _get(facts: Facts) -> str:
    given = facts.output.quantisation
    if given is None:
        return "output.getFloat()"
    byte = "output.get()" if facts.output.dtype == "int8" else "(output.get().toInt() and 0xff)"
    return f"({byte}.toFloat() - {float32(given.zero_point, 'f')}) * {float32(given.scale, 'f')}"


def _body(facts: Facts) -> str:
    steps = facts.steps
    if isinstance(steps, ImageSteps):
        return fill(
            _IMAGE,
            **image_values(steps, "f"),
            resizing=about_resizing(steps),
            place="i * CHANNELS + c" if steps.layout == "hwc" else "c * HEIGHT * WIDTH + i",
        )
    if isinstance(steps, TableSteps):
        return fill(_TABLE, columns=_columns(steps), categories=_categories(steps))
    return _window(steps)


def _columns(steps: TableSteps) -> str:
    return "\n".join(
        f"            Column({kotlin_string(name)}, {places}, {float64(filled, 'null')}, "
        f"{', '.join(map(float64, numbers))}),"
        for name, places, filled, *numbers in columns_of(steps)
    )


def _categories(steps: TableSteps) -> str:
    return "\n".join(
        f"            {i} to arrayOf({joined(map(kotlin_string, column.values))}),"
        for i, column in enumerate(steps.columns)
        if isinstance(column, Category)
    )


def _window(steps: WindowSteps) -> str:
    return fill(
        _WINDOW,
        **window_values(steps, "Double.MAX_VALUE"),
        feature=_FEATURES[steps.feature],
    )
