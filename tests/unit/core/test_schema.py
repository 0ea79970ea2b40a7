"""The committed JSON Schema of plans is the one that the types give."""

from __future__ import annotations

import json
from pathlib import Path

from collab.core.plan import json_schema

FILE = Path(__file__).parents[3] / "docs" / "plan.schema.json"
REGENERATE = (
    'python -c "import json; from collab.core.plan import json_schema; '
    'print(json.dumps(json_schema(), indent=2))" > docs/plan.schema.json'
)


def test_the_schema_is_fresh():
    committed = FILE.read_text(encoding="utf-8")
    assert committed == json.dumps(json_schema(), indent=2) + "\n", f"stale; run: {REGENERATE}"


def test_unknown_fields_are_errors_in_every_part_of_the_schema():
    definitions = json_schema()["$defs"]
    assert {"Plan", "StageSpec", "Edge", "TensorSpec", "Guard", "FireQuorum"} <= definitions.keys()
    for name, definition in definitions.items():
        assert definition["additionalProperties"] is False, name
