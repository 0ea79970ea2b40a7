"""The experiments by name, in the order in which docs/experiments.md describes them."""

from __future__ import annotations

from typing import Final

from simulations import baselines, classes, codecs, handover, nodes, quorum, tls, transports
from simulations.experiment import Experiment

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
