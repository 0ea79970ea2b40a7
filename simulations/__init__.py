"""Experiments over emulated and simulated networks (docs/experiments.md), and thin scripts."""
