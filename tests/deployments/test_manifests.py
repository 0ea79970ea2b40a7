"""Kubernetes manifests against the schema of a release: pytest --heavy=deployments."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deployments.machine import ROOT

pytestmark = pytest.mark.heavy("deployments")

RELEASE = "1.33"
FOLDER = ROOT / "deployments" / "k3s"


def manifests() -> list[dict[str, Any]]:
    files = sorted(file for file in (FOLDER / "base").glob("*.yaml") if file.name != "kustomization.yaml")
    return [each for file in files for each in yaml.safe_load_all(file.read_text("utf-8"))]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_a_manifest_has_no_field_that_the_release_does_not_know(manifest):
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(manifest, RELEASE, strict=True)


def test_a_misspelt_field_is_found():
    validate = pytest.importorskip("kubernetes_validate")
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": []}}
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest, RELEASE, strict=True)
