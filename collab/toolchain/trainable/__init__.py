"""Makes models that devices train without TensorFlow: forward and backward written as ``.tflite``."""
