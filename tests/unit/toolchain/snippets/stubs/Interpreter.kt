// The part of LiteRT's public interface that snippets use.
package org.tensorflow.lite

import java.nio.ByteBuffer

class Interpreter(model: ByteBuffer, options: Options) {
    class Options {
        var numThreads: Int
            get() = 1
            set(value) {
                setNumThreads(value)
            }

        fun setNumThreads(count: Int): Options = this
    }

    fun runForMultipleInputsOutputs(inputs: Array<Any>, outputs: Map<Int, Any>) {}

    fun close() {}
}
