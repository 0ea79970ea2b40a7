"""Every page of the reference that is made when the site is built."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from collab.core.plan import Plan
from collab.core.profile import Profile
from collab.emulation.scenario import Scenario
from collab.errors import BY_CODE
from collab.federated.task import Task
from collab.node.config import NodeConfig
from collab.telemetry.catalogue import CATALOGUE
from collab.updates.policies.clauses import Policy
from collab.updates.rollout.definition import Rollout
from scripts.site import commands, protos
from scripts.site.markdown import prose, table
from scripts.site.structs import file_section

EXIT_CODES = (
    (0, "done"),
    (1, "failed: the request, the comparison, the model; what was wrong is said in one line"),
    (2, "wrong use: an unknown option, a value that cannot be used, a wrong setting"),
    (3, "a peer could not be reached"),
    (4, "refused, by security or by policy"),
    (130, "interrupted by Ctrl-C"),
)
VARIABLES = (
    ("COLLAB_PEERS", "addresses of nodes, HOST:PORT,…", "`--peers`, of all commands that reach nodes"),
    ("COLLAB_IDENTITY", "folder of this device's key and certificate", "`collab --identity`"),
    ("COLLAB_AUTHORITY", "folder of the cluster's authority", "`--authority` of `collab cluster`"),
    ("COLLAB_PASSPHRASE_FILE", "file with the passphrase of the authority's key", "`--passphrase-file`"),
    ("COLLAB_RELEASE_PASSPHRASE", "passphrase of the keys of releases", "asked for on a terminal otherwise"),
    ("COLLAB_RELEASE_PASSPHRASE_PIN", "PIN of a key in hardware", "asked for on a terminal otherwise"),
    ("COLLAB_CONFIG", "a TOML file of settings", "`collab node --config`"),
    ("COLLAB_NAME, COLLAB_LISTEN, …", "every setting of a node in capitals", "the option, then the file"),
)
OURS_ALONE = frozenset({"COLLAB_ALIGN"})
"""Variables that people need not know."""
API = (
    ("collab.api.Cluster", "asynchronous"),
    ("collab.api.BlockingCluster", "the same without `await`"),
    ("collab.client.runner.Result", "what `request` returns"),
    ("collab.planner.chains.Wants", "what is asked of a plan"),
    ("collab.coordinator.deploy.Deployment", "what `deploy` returns"),
    ("collab.coordinator.cluster.NodeView", "a node as `nodes` sees it"),
    ("collab.errors", "the exceptions"),
)


def reference(root: Path) -> dict[str, str]:
    """Pages by their path below ``docs/``."""
    return {
        "reference/commands.md": commands.page(),
        "reference/python.md": python_page(),
        "reference/plan.md": plan_page(),
        "reference/files.md": files_page(),
        "reference/codes.md": codes_page(),
        "reference/metrics.md": metrics_page(),
        "reference/protos.md": protos.page(
            [(file.name, file.read_text("utf-8")) for file in sorted((root / "protos").rglob("*.proto"))]
        ),
    }


def python_page() -> str:
    """The public API, which mkdocstrings fills in."""
    parts = [
        "# Python",
        "`collab.Cluster` and `collab.BlockingCluster`, and what they give and take. "
        "[README](../../README.md#from-python) has examples that run.",
    ]
    parts += [f"## {name.rpartition('.')[2]}\n\n{what}\n\n::: {name}" for name, what in API]
    return "\n\n".join(parts) + "\n"


def plan_page() -> str:
    """The plan file and the profile."""
    intro = (
        "YAML that `collab plan` writes and people may edit. Unknown fields are errors. "
        "As JSON Schema: [plan.schema.json](../plan.schema.json)."
    )
    profile = (
        "JSON that `collab profile` writes; [planning](../planning.md#the-profile-file) has the least of it."
    )
    return (
        "\n\n".join(
            [
                "# The plan file",
                file_section("Plan file", intro, Plan),
                file_section("Profile file", profile, Profile),
            ]
        )
        + "\n"
    )


def files_page() -> str:
    """Settings of nodes, and the files that commands read."""
    return (
        "\n\n".join(
            [
                "# Files and settings",
                "Unknown fields are errors, and an error names the field.",
                file_section(
                    "Settings of a node",
                    "`collab node --config FILE`, TOML. [README](../../README.md#settings) has a sample.",
                    NodeConfig,
                ),
                file_section(
                    "Scenario",
                    "`collab simulate`, `collab emulate`: [scenarios](../simulation.md).",
                    Scenario,
                ),
                file_section("Federated task", "`collab fed run`: [rounds](../federated/rounds.md).", Task),
                file_section(
                    "Update policy", "`collab release policy`: [policies](../releases/policies.md).", Policy
                ),
                file_section(
                    "Rollout", "`collab release rollout start`: [rollouts](../releases/rollouts.md).", Rollout
                ),
            ]
        )
        + "\n"
    )


def codes_page() -> str:
    """Exit codes, errors, variables."""
    errors = [
        (f"`{name}`", str(kind.exit_code), f"`{kind.__name__}`", prose(inspect.getdoc(kind) or ""))
        for name, kind in BY_CODE.items()
    ]
    parts = [
        "# Codes and variables",
        "## Exit codes",
        table(("code", "meaning"), [(str(code), what) for code, what in EXIT_CODES]),
        "## Errors",
        'With `--json` an error is `{"error": {"code", "message"}}`. '
        "The class is the exception of the Python API.",
        table(("code", "exit code", "class", "meaning"), errors),
        "## Environment variables",
        "An option goes before its variable, and that before a file.",
        table(
            ("variable", "what it is", "instead of"),
            [(f"`{name}`", what, instead) for name, what, instead in VARIABLES],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every metric of the catalogue."""
    rows = [
        (f"`{m.name}`", m.kind.value, ", ".join(f"`{label}`" for label in m.labels) or "–", prose(m.text))
        for m in CATALOGUE
    ]
    parts = [
        "# Metrics",
        "`collab node --metrics` and `collab serve --metrics`. [Monitoring](../monitoring.md) says what the "
        "labels may be.",
        table(("metric", "type", "labels", "meaning"), rows),
    ]
    return "\n\n".join(parts) + "\n"


def variables_in(source: str) -> Iterator[str]:
    """Names of this package's environment variables in the strings of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for word in node.value.replace("]", " ").replace(".", " ").replace(",", " ").split():
                if word.startswith("COLLAB_"):
                    yield word
