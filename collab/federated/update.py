"""What travels in a round of federated training, and what a client is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collab.core.decoding import prepare

Parameters = Mapping[str, NDArray[np.floating]]
"""A model's trainable weights (and averaged statistics) by tensor name, float32 unless said otherwise.

The order of the names is the model's own and the same everywhere.
"""


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What a client does in a round (McMahan et al., AISTATS 2017, algorithm 1)."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    """``sgd``, ``momentum`` or ``adam``."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    proximal: float = 0.0
    """Weight of half the squared distance from the round's model (FedProx, Li et al., MLSys 2020)."""
    max_steps: int | None = None
    seed: int = 0
    """Of the order of examples and of dropout."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a client sends of one round."""

    round: int
    client: str
    samples: int
    """Examples that it trained on, at least 1."""
    delta: Parameters
    """Its weights after training less the round's."""
    control: Parameters = field(default_factory=dict)
    """Change of its control variate (SCAFFOLD, Karimireddy et al., ICML 2020); empty with other rules."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    staleness: int = 0
    """So many rounds ago was the model made that it began with."""


prepare(LocalTraining)
