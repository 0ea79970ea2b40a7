"""Experiments over emulated and simulated networks; see docs/experiments.md."""
