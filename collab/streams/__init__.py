"""Frames from sources through a plan, answers to sinks."""
