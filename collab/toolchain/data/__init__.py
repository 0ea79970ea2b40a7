"""From raw files to examples that a model trains on; needs scikit-learn and Pillow, no TensorFlow."""
