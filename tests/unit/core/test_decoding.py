"""Threads may decode a type for the first time at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.split() == ["Unprepared"], (
        "what is learnt at the first use ends a process with threads"
    )
