"""Scenario files, and thin scripts over the package."""
