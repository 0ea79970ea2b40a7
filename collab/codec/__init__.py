"""Tensors and envelopes to bytes and back, without I/O."""
