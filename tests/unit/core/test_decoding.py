"""Threads may decode a type for the first time at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "collab"
PROGRAM = """
import sys
from importlib import import_module

import msgspec

learnt = []

def watch(frame, event, _):
    if event == "call" and frame.f_code.co_name == "get_class_annotations":
        learnt.append(frame.f_locals["obj"].__name__)

class Unprepared(msgspec.Struct):
    x: int

kinds = [getattr(import_module(m), n) for m, _, n in (a.rpartition(".") for a in sys.argv[1:])]
sys.setprofile(watch)
for kind in (*kinds, Unprepared):
    msgspec.json.Decoder(kind)
sys.setprofile(None)
print(*learnt)
"""
DECODED_BY_THREADS = (
    "collab.core.plan.Plan",
    "collab.core.preprocessing.Preprocessing",
    "collab.core.profile.Profile",
    "collab.federated.compression.models._ModelHeader",
    "collab.federated.compression.updates._UpdateHeader",
    "collab.coordinator.plan_versions.PlanState",
    "collab.coordinator.rollout_folder.About",
    "collab.coordinator.rollout_folder.RolloutState",
    "collab.coordinator.rollout_folder.Wish",
    "collab.updates.bundle.manifest.Manifest",
    "collab.updates.policies.reference.ReferenceFile",
    "collab.updates.release.ReleaseInfo",
)


def test_what_threads_decode_is_learnt_when_it_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *DECODED_BY_THREADS],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.split() == ["Unprepared"], (
        "what is learnt at the first use ends a process with threads"
    )


WITH_THREADS = [
    "client",
    "coordinator",
    "core",
    "dashboard",
    "federated",
    "node",
    "runtime",
    "security",
    "serving",
    "streams",
    "updates",
]
BUILT_IN = {"dict", "float", "int", "list", "object", "str", "tuple"}
WITHOUT_FIELDS = {"Digest", "_Counted"}
GIVEN = {"into", "kind"}
"""Arguments of functions; who calls them names the type."""


def names(trees: list[ast.expr]) -> set[str]:
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def prepared_in(module: ast.Module) -> set[str]:
    """What is prepared, or has a decoder, once the module is imported."""
    found: set[str] = set()
    for statement in module.body:
        if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign):
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("prepare", ".Decoder")):
                    found |= names(call.args)
    return found


def decoded_in(module: ast.Module) -> set[str]:
    """What is decoded by msgspec without a decoder of its own."""
    found: set[str] = set()
    for call in ast.walk(module):
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("msgspec."):
            found |= names([word.value for word in call.keywords if word.arg == "type"])
            if ast.unparse(call.func) == "msgspec.convert":
                found |= names(call.args[1:2])
    return found - BUILT_IN - WITHOUT_FIELDS - GIVEN


def test_no_process_with_threads_decodes_what_was_not_prepared():
    modules = [
        ast.parse(path.read_text())
        for package in WITH_THREADS
        for path in sorted((PACKAGE / package).rglob("*.py"))
    ]
    decoded = set[str]().union(*map(decoded_in, modules))
    assert len(decoded) > 30
    assert decoded - set[str]().union(*map(prepared_in, modules)) == set()
