"""``python -m collab``."""

from __future__ import annotations

from collab.cli.main import main

main()
