"""Rules and dashboard ask for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from collab.telemetry.catalogue import CATALOGUE, Kind

FOLDER = Path(__file__).parents[3] / "deployments" / "monitoring"
TARGET = {"job", "instance", "node"}
"""Labels that the scrape adds."""
KNOWN = {"up": TARGET} | {
    metric.name + suffix: {*metric.labels, *TARGET, *(("le",) if suffix == "_bucket" else ())}
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
NAME = re.compile(r"\b((?:collab|process)_\w+|up)\b(?:\{([^}]*)\})?")


def expressions() -> Iterator[tuple[str, str]]:
    """Where and what."""
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    board = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(
    ("where", "expression"), EXPRESSIONS, ids=[f"{i}-{w}" for i, (w, _) in enumerate(EXPRESSIONS)]
)
def test_metrics_and_labels_exist(where, expression):
    found = NAME.findall(expression)
    assert found, where
    for name, matchers in found:
        assert name in KNOWN, name
        assert set(re.findall(r"(\w+)\s*[=!]~?[\"=]", matchers)) <= KNOWN[name], (name, matchers)
    labels = {label for kind in found for label in KNOWN[kind[0]]}
    for group in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= labels, group


def test_every_panel_and_variable_asks_the_data_source_that_was_chosen():
    board = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in board["panels"]:
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert board["templating"]["list"][0]["type"] == "datasource"


def test_every_alert_is_explained_and_has_a_severity():
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
    text = (FOLDER / "README.md").read_text("utf-8")
    for rule in rules["groups"][0]["rules"]:
        assert f"`{rule['alert']}`" in text
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
