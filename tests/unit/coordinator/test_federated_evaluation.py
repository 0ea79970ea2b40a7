"""How models of a federated run are measured: by clients, beside the one that runs, or by the server."""

from __future__ import annotations

import asyncio
from typing import Any

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.federated_evaluation import Evaluations
from collab.core.ids import Digest
from collab.errors import InputError
from collab.federated.actions import Evaluate
from collab.federated.events import Evaluated, EvaluationFailed
from collab.federated.orders import OrderId

NEW, OLD = Digest("1" * 64), Digest("2" * 64)
ASKED = Evaluate(3, NEW, ("ann",))


class Client:
    """Answers as told for each model."""

    run = "run"

    def __init__(self, **said: float | str) -> None:
        self.said = {NEW: said["new"], OLD: said.get("old", 0.0)}
        self.asked: list[tuple[OrderId, Digest]] = []

    async def evaluate(self, order, model, deadline_s, broadcast) -> pb.TrainingState:
        assert deadline_s == 9.0
        self.asked.append((order, model))
        said = self.said[model]
        if isinstance(said, str):
            return pb.TrainingState(state="failed", reason=said)
        return pb.TrainingState(state="done", samples=7, metrics=[pb.Metric(name="loss", value=said)])


class Swaps:
    """Says which weights run, and keeps what was measured."""

    def __init__(self, running: Digest | None) -> None:
        self.running = running
        self.told: list[Any] = []

    async def beside(self) -> Digest | None:
        return self.running

    def measured(self, *told: Any) -> None:
        self.told.append(told)


def evaluations(client, here=None, swaps=None):
    async def broadcast(digest, holds):
        raise AssertionError("nothing lacks")

    return Evaluations({"ann": client}, broadcast, 9.0, here, asyncio.to_thread, swaps)


async def test_a_client_is_asked_once_where_no_plan_runs():
    client = Client(new=0.5)
    assert await evaluations(client).at(ASKED, "ann") == Evaluated(3, "ann", 7, {"loss": 0.5})
    assert client.asked == [(OrderId("run", 3), NEW)]


async def test_the_weights_that_run_are_measured_beside_a_rounds_own():
    client, swaps = Client(new=0.5, old=0.75), Swaps(OLD)
    assert await evaluations(client, swaps=swaps).at(ASKED, "ann") == Evaluated(3, "ann", 7, {"loss": 0.5})
    assert client.asked == [(OrderId("run", 3, 1), OLD), (OrderId("run", 3), NEW)]
    assert swaps.told == [(3, OLD, (7, {"loss": 0.75}, {"loss": 0.5}))]


async def test_a_model_that_runs_already_or_cannot_be_measured_tells_nothing_of_a_swap():
    for swaps in (Swaps(NEW), Swaps(None), Swaps(OLD)):
        said = await evaluations(Client(new=0.5, old="broken"), swaps=swaps).at(ASKED, "ann")
        assert said == Evaluated(3, "ann", 7, {"loss": 0.5})
        assert swaps.told == []


async def test_a_client_that_fails_is_told_with_its_reason():
    said = await evaluations(Client(new="no data")).at(ASKED, "ann")
    assert said == EvaluationFailed(3, "ann", "no data")


async def test_without_a_name_the_servers_own_data_decide():
    asked = Evaluate(3, NEW, ())
    own = evaluations(None, lambda model: (5, {"loss": float(model == NEW)}))
    assert await own.at(asked, "") == Evaluated(3, "", 5, {"loss": 1.0})

    def broken(model):
        raise InputError("data: gone")

    assert await evaluations(None, broken).at(asked, "") == EvaluationFailed(3, "", "data: gone")
