"""Reading scenario files and what they name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.cli.files import read_plan, read_profile, read_yaml
from collab.errors import BackendError, ConfigError, InputError

if TYPE_CHECKING:
    from collab.core.plan import Plan
    from collab.core.profile import Profile
    from collab.emulation.runner import Material
    from collab.emulation.scenario import Scenario
    from collab.emulation.simulator import Inputs
    from collab.emulation.traces import Trace

_MAX_SCENARIO_BYTES: Final = 16 << 20
_LIBRARIES: Final = ("matplotlib", "pyroute2", "simpy")


def require_libraries() -> None:
    """Raise `BackendError` where the ``emulation`` extra is not installed."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise BackendError(
            f"scenarios need {names}: install the emulation extra (pip install 'collab[emulation]')"
        )


def read_scenario(path: Path) -> dict[str, Any]:
    """What a scenario file holds, not checked yet; raises `ConfigError` or `InputError`."""
    tree = read_yaml("scenario", path, _MAX_SCENARIO_BYTES)
    if not isinstance(tree, dict):
        raise ConfigError(f"scenario {path}: is no mapping; write name, hosts, plans and workload")
    return tree


def read_inputs(scenario: Scenario, folder: Path) -> Inputs:
    """The profile, plans and traces that a scenario names; raises `ConfigError` or `InputError`."""
    from collab.emulation.simulator import Inputs

    profile = _profile(scenario, folder)
    if profile is None:
        raise ConfigError(
            "profile: it is missing; name a file that 'collab profile' made, or write its content there"
        )
    return Inputs(profile, _plans(scenario, folder), _traces(scenario, folder))


def read_material(scenario: Scenario, folder: Path) -> Material:
    """What the emulator needs: the model, and the profile, plans and traces that a scenario names.

    Raises `ConfigError`, `InputError` or `ModelError`.
    """
    from collab.coordinator.planning import open_model
    from collab.emulation.runner import Material

    if not scenario.model:
        raise ConfigError("model: it is missing; name the .tflite file that the nodes run")
    model = (folder / scenario.model).resolve()
    graph = open_model(model)
    traces = _traces(scenario, folder)
    return Material(
        model, graph, folder.resolve(), _profile(scenario, folder), _plans(scenario, folder), traces
    )


def _profile(scenario: Scenario, folder: Path) -> Profile | None:
    """The file that the scenario names, or its content there; None where it has neither."""
    from collab.core.profiles import check

    if isinstance(scenario.profile, str):
        return read_profile(folder / scenario.profile) if scenario.profile else None
    check(scenario.profile)
    return scenario.profile


def _plans(scenario: Scenario, folder: Path) -> dict[str, Plan]:
    from collab.emulation.scenario import PlanChoice

    files = {c.file for c in scenario.plans if isinstance(c, PlanChoice) and c.file is not None}
    return {name: read_plan(folder / name) for name in sorted(files)}


def _traces(scenario: Scenario, folder: Path) -> dict[str, Trace]:
    """Those of links as they are at first, and as they become."""
    from collab.emulation.layout import changes_of, network_of
    from collab.emulation.traces import read_trace

    found: dict[str, Trace] = {}
    network = network_of(scenario)
    profiles = [link.profile for link in network.links]
    profiles += [change.profile for change in changes_of(scenario, network)]
    for profile in profiles:
        parts = (("up", profile.up), ("down", profile.down))
        for direction, part in parts:
            name = part.trace
            if name is None or name in found:
                continue
            try:
                data = (folder / name).read_bytes()
            except OSError as error:
                raise InputError(f"trace {folder / name}: {error.strerror}") from error
            found[name] = read_trace(data, name, part.trace_format, direction)  # type: ignore[arg-type]
    return found
