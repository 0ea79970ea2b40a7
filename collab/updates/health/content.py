"""What a release's file holds: a packaged model, or a bare ``.tflite``."""

from __future__ import annotations

from pathlib import Path

from collab.errors import CollabError, ModelError
from collab.runtime.base import Backend, LoadedStage
from collab.updates.bundle.golden import check_golden
from collab.updates.bundle.read import is_bundle, open_bundle
from collab.updates.health.gate import Failed, GoldenRan


def load(path: Path, backend: Backend, threads: int) -> LoadedStage:
    """Load it; raises `ModelError`, `BackendError` or `IntegrityError`."""
    try:
        model = open_bundle(path).model() if is_bundle(path) else path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; fetch the release again") from error
    return backend.load(model, threads)


def run_golden(path: Path, stage: LoadedStage, backend: Backend) -> GoldenRan | Failed:
    """Answer its golden inputs; a bare model has none."""
    if not is_bundle(path):
        return GoldenRan(0, 0)
    try:
        report = check_golden(open_bundle(path), stage.run, str(backend.runtime_class()))
    except CollabError as error:
        return Failed(str(error))
    if report is None:
        return GoldenRan(0, 0)
    return GoldenRan(report.compared, 0 if report.passed else report.compared - report.exact)
