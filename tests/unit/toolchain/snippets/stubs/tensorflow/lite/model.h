// The part of LiteRT's public interface that snippets use.
#pragma once
#include <memory>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
class FlatBufferModel {
 public:
  static std::unique_ptr<FlatBufferModel> BuildFromFile(const char* filename);
};
}  // namespace tflite
