"""A packaged model: one file with the model and all that is needed to use it."""
