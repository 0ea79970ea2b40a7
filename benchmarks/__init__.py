"""Side-by-side measurements; each prints a table, or one JSON object under ``--json``."""
