"""Who trains on a device: LiteRT without TensorFlow, or Keras where TensorFlow is."""
