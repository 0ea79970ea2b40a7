#pragma once
#include <memory>
#include "tensorflow/lite/model.h"
namespace tflite {
class Interpreter {
 public:
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  template <class T>
  T* typed_input_tensor(int index);
  template <class T>
  T* typed_output_tensor(int index);
};
class OpResolver {};
class InterpreterBuilder {
 public:
  InterpreterBuilder(const FlatBufferModel& model, const OpResolver& resolver);
  TfLiteStatus SetNumThreads(int threads);
  TfLiteStatus operator()(std::unique_ptr<Interpreter>* interpreter);
};
}  // namespace tflite
