"""Reading scenario files and what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.cli.files import read_plan, read_profile, read_yaml
from collab.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collab.emulation.network import Network
    from collab.emulation.scenario import Scenario
    from collab.emulation.simulator import Inputs
    from collab.emulation.traces import Trace

_MAX_SCENARIO_BYTES: Final = 16 << 20


def read_scenario(path: Path) -> dict[str, Any]:
    """What a scenario file holds, not checked yet; raises `ConfigError` or `InputError`."""
    tree = read_yaml("scenario", path, _MAX_SCENARIO_BYTES)
    if not isinstance(tree, dict):
        raise ConfigError(f"scenario {path}: is no mapping; write name, hosts, plans and workload")
    return tree


def read_inputs(scenario: Scenario, folder: Path) -> Inputs:
    """The profile, plans and traces that a scenario names; raises `ConfigError` or `InputError`."""
    from collab.core.profiles import check
    from collab.emulation.layout import network_of
    from collab.emulation.scenario import PlanChoice
    from collab.emulation.simulator import Inputs

    if isinstance(scenario.profile, str):
        if not scenario.profile:
            raise ConfigError(
                "profile: it is missing; name a file that 'collab profile' made, or write its content there"
            )
        profile = read_profile(folder / scenario.profile)
    else:
        profile = scenario.profile
        check(profile)
    files = {c.file for c in scenario.plans if isinstance(c, PlanChoice) and c.file is not None}
    return Inputs(
        profile,
        {name: read_plan(folder / name) for name in sorted(files)},
        _traces(network_of(scenario), folder),
    )


def _traces(network: Network, folder: Path) -> dict[str, Trace]:
    from collab.emulation.traces import read_trace

    found: dict[str, Trace] = {}
    for link in network.links:
        parts = (("up", link.profile.up), ("down", link.profile.down))
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
