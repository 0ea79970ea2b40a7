"""The experiments by name, in the order in which docs/experiments.md describes them."""

from __future__ import annotations

from typing import Final

from simulations import baselines, classes, codecs, handover, nodes, quorum, tls, transports, update_policies
from simulations.experiment import Experiment, Study

EXPERIMENTS: Final[dict[str, Experiment]] = {
    experiment.name: experiment
    for experiment in (
        baselines.EXPERIMENT,
        nodes.EXPERIMENT,
        transports.EXPERIMENT,
        codecs.EXPERIMENT,
        handover.EXPERIMENT,
        classes.EXPERIMENT,
        quorum.EXPERIMENT,
        tls.EXPERIMENT,
    )
}

STUDIES: Final[dict[str, Study]] = {update_policies.STUDY.name: update_policies.STUDY}
"""What has no scenario; named beside the experiments."""
