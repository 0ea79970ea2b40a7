"""Rules about imports that import-linter cannot see: standard library, third parties, lazy ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "collab"

PURE = (
    "collab.errors",
    "collab.core",
    "collab.graph",
    "collab.planner",
    "collab.codec",
    "collab.client.requester",
    *(
        f"collab.dashboard.{name}"
        for name in ("looks", "measured", "state", "timeline", "traffic", "versions")
    ),
    "collab.emulation.base",
    "collab.emulation.build",
    "collab.emulation.devices",
    "collab.emulation.expected",
    "collab.emulation.forward",
    "collab.emulation.models",
    "collab.emulation.profile",
    "collab.emulation.profiles",
    "collab.emulation.traces",
    *(f"collab.emulation.{name}" for name in ("arrivals", "compare", "layout", "results", "scenario")),
    *(f"collab.emulation.{name}" for name in ("scenario_check", "summary", "timeline", "turns", "ways")),
    *(f"collab.federated.{name}" for name in ("combinations", "compression", "gate", "partition")),
    "collab.federated.aggregate",
    *(f"collab.federated.privacy.{name}" for name in ("private_mean", "secure_client", "secure_server")),
    *(f"collab.federated.{name}" for name in ("agreeing", "masked", "privacy.sessions")),
    "collab.federated.privacy.accounting",
    "collab.node.session",
    "collab.runtime.quarantine",
    "collab.runtime.transforms",
    *(f"collab.runtime.preprocessing.{name}" for name in ("quantised", "scaling", "windows")),
    *(f"collab.serving.{name}" for name in ("datatypes", "openapi", "rate", "status", "upload")),
    *(f"collab.telemetry.{name}" for name in ("catalogue", "context", "histogram", "spans")),
    "collab.updates.bundle.manifest",
    *(f"collab.updates.health.{name}" for name in ("agreement", "crashes", "gate", "sequential", "trial")),
    "collab.updates.store.state",
    "collab.updates.policies",
    "collab.updates.rollout",
    "collab.updates.agenda",
    "collab.updates.release",
    *(f"collab.updates.fetch.{name}" for name in ("clock", "deltas", "pace")),
)
"""Modules and packages that neither do I/O nor look at a clock; those that exist are checked."""

IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "sched", "signal", "subprocess", "threading", "time"),
    *("grpc", "http", "select", "selectors", "socket", "ssl", "urllib"),
}

TENSORFLOW = {"tensorflow", "tf_keras", "keras"}
MAY_USE_TENSORFLOW = ("collab.toolchain", "collab.federated")


def module_name(file: Path) -> str:
    """Dotted name of a file of the package."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere, except for type checkers only."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def within(name: str, tops: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of some modules, or inside one."""
    return any(name == top or name.startswith(f"{top}.") for top in tops)


MODULES = {module_name(file): sorted(imports(file.read_text("utf-8"))) for file in PACKAGE.rglob("*.py")}


def reached(start: str) -> dict[str, str]:
    """Modules of the package that importing ``start`` needs, each with the one that asks for it."""
    found = {start: ""}
    todo = [start]
    while todo:
        name = todo.pop()
        for target in MODULES[name]:
            module = target if target in MODULES else target.rpartition(".")[0]
            if module in MODULES and module not in found:
                found[module] = name
                todo.append(module)
    return found


@pytest.mark.parametrize("module", sorted(name for name in MODULES if within(name, PURE)))
def test_pure_modules_reach_no_io_and_no_clock(module):
    offences = [
        f"{name} imports {target}" + (f" (imported by {asked_by})" if asked_by else "")
        for name, asked_by in reached(module).items()
        for target in MODULES[name]
        if target.partition(".")[0] in IMPURE
    ]
    assert not offences


def test_tensorflow_stays_in_the_toolchain():
    offences = [
        f"{name} imports {target}"
        for name, targets in MODULES.items()
        for target in targets
        if target.partition(".")[0] in TENSORFLOW and not within(name, MAY_USE_TENSORFLOW)
    ]
    assert not offences


def test_the_check_sees_lazy_imports_and_skips_those_for_type_checkers():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import socket
else:
    import select
def later():
    from time import sleep
"""
    assert sorted(imports(source)) == ["select", "time.sleep", "typing.TYPE_CHECKING"]
