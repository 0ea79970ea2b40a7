"""C++: the interpreter of LiteRT on Linux and other systems, and LiteRT for Microcontrollers."""

from __future__ import annotations

import re
from typing import Final

from collab.toolchain.convert.c_array import c_header, c_source
from collab.toolchain.snippets.c_header import preprocessing_header
from collab.toolchain.snippets.facts import Facts, fill

_CLASSIFIER: Final = """\
// Generated from a packaged model, digest @digest@.
// Build it with LiteRT's C++ library (https://ai.google.dev/edge/litert).
#include <memory>
#include <vector>

#include "preprocessing.h"
#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"

namespace @name@ {

class Classifier {
 public:
  // Null if the model cannot be loaded.
  static std::unique_ptr<Classifier> Load(const char* path, int threads = 1) {
    std::unique_ptr<Classifier> made(new Classifier);
    made->model_ = tflite::FlatBufferModel::BuildFromFile(path);
    if (!made->model_) return nullptr;
    tflite::ops::builtin::BuiltinOpResolver resolver;
    tflite::InterpreterBuilder builder(*made->model_, resolver);
    builder.SetNumThreads(threads);
    if (builder(&made->interpreter_) != kTfLiteOk) return nullptr;
    if (made->interpreter_->AllocateTensors() != kTfLiteOk) return nullptr;
    return made;
  }

  // Scores by class; empty if the input cannot be used or the model fails.
  std::vector<float> Run(const Raw* raw) {
    std::vector<float> prepared(kInputCount), scores;
    if (!Prepare(raw, prepared.data())) return scores;
    Input* input = interpreter_->typed_input_tensor<Input>(0);
    for (int i = 0; i < kInputCount; ++i) input[i] = ToInput(prepared[i]);
    if (interpreter_->Invoke() != kTfLiteOk) return scores;
    const Output* output = interpreter_->typed_output_tensor<Output>(kOutputIndex);
    for (int i = 0; i < kOutputCount; ++i) scores.push_back(FromOutput(output[i]));
    return scores;
  }

 private:
  std::unique_ptr<tflite::FlatBufferModel> model_;
  std::unique_ptr<tflite::Interpreter> interpreter_;
};

}  // namespace @name@
"""

_MICRO: Final = """\
// Generated from a packaged model, digest @digest@.
// Build it with LiteRT for Microcontrollers (https://github.com/tensorflow/tflite-micro).
#include "model_data.h"
#include "preprocessing.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace @name@ {

// Activations by an estimate, with slack; make it smaller by what arena_used_bytes() says.
constexpr size_t kArenaBytes = @arena@;
alignas(16) static uint8_t arena[kArenaBytes];
static float prepared[kInputCount];

static tflite::MicroInterpreter* interpreter = nullptr;

// Once, before the first Run; false if the model does not fit.
bool Begin() {
  static tflite::MicroMutableOpResolver<@count@> resolver;
@operators@
  static tflite::MicroInterpreter made(tflite::GetModel(g_model_data), resolver, arena, kArenaBytes);
  if (made.AllocateTensors() != kTfLiteOk) return false;
  interpreter = &made;
  return true;
}

// `scores` has room for kOutputCount; false if the input cannot be used or the model fails.
bool Run(const Raw* raw, float* scores) {
  if (interpreter == nullptr || !Prepare(raw, prepared)) return false;
  Input* input = interpreter->typed_input_tensor<Input>(0);
  for (int i = 0; i < kInputCount; ++i) input[i] = ToInput(prepared[i]);
  if (interpreter->Invoke() != kTfLiteOk) return false;
  const Output* output = interpreter->typed_output_tensor<Output>(kOutputIndex);
  for (int i = 0; i < kOutputCount; ++i) scores[i] = FromOutput(output[i]);
  return true;
}

}  // namespace @name@
"""


def cpp_files(facts: Facts, model: bytes) -> dict[str, bytes]:
    """For devices with files; ``model.tflite`` is loaded at run time."""
    return {
        "preprocessing.h": preprocessing_header(facts).encode(),
        "classifier.h": fill(_CLASSIFIER, digest=facts.digest, name=facts.name).encode(),
        "model.tflite": model,
    }


def micro_files(facts: Facts, model: bytes, sha256: str) -> dict[str, bytes]:
    """For microcontrollers; the model is an array."""
    added = "\n".join(
        f"  if (resolver.{adder(name)}() != kTfLiteOk) return false;" for name in facts.operators
    )
    source = fill(
        _MICRO,
        digest=facts.digest,
        name=facts.name,
        arena=facts.arena_bytes,
        count=len(facts.operators),
        operators=added,
    )
    return {
        "preprocessing.h": preprocessing_header(facts).encode(),
        "classifier.cc": source.encode(),
        "model_data.h": c_header("g_model_data", sha256).encode(),
        "model_data.cc": c_source(model, "g_model_data", "model_data.h").encode(),
    }


def adder(operator: str) -> str:
    """The resolver's method for an operator: ``CONV_2D`` is ``AddConv2D``."""
    words = operator.lower().split("_")
    return "Add" + "".join(
        re.sub(r"^(\d)d$", r"\1D", word).replace(word[0], word[0].upper(), 1) for word in words
    )
