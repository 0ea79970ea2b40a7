"""Plug-ins of this project's own tests."""
