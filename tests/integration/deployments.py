"""Plans brought up for a test, and taken down after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from collab.assembly import build_cluster
from collab.client.runner import PlanClient, Result
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy, undeploy
from collab.core.alternatives import alternative_name
from collab.core.plan import Plan
from collab.core.validate import validate
from collab.errors import CollabError
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess


class Opened(NamedTuple):
    """A cluster with one plan deployed and a client of it."""

    cluster: Cluster
    client: PlanClient


def endpoints(nodes: Sequence[NodeProcess]) -> dict[str, str]:
    """By name, as `Reference.chain` takes them."""
    return {node.name: node.endpoint for node in nodes}


def with_alternatives(reference: Reference, places: Mapping[str, str]) -> tuple[Plan, Blobs]:
    """Stages on a, b and c; without b its stage is on c, without c on a, without a all is on c."""
    plan, blobs = reference.chain([10, 20], ["a", "b", "c"], places)
    alternatives = []
    for lost, assign in (("b", ["a", "c", "c"]), ("c", ["a", "b", "a"]), ("a", ["c", "c", "c"])):
        made, more = reference.chain([10, 20], assign, places)
        name = alternative_name(plan.name, [lost])
        alternatives.append(made.replace(name=name, primary=plan.name, without=(lost,)))
        blobs = {**blobs, **more}
    return validate(plan.replace(alternatives=tuple(alternatives))), blobs


@asynccontextmanager
async def deployed_plan(plan: Plan, blobs: Blobs, credits: int = 8) -> AsyncIterator[Opened]:
    """Deploy, open, and undeploy in the end."""
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, credits)
        yield Opened(cluster, client)
        await cluster.release(client)
        await undeploy(cluster, plan)


async def run_all(
    client: PlanClient, reference: Reference, concurrency: int = 8, deadline_s: float = 20.0
) -> list[Result | CollabError]:
    """Every request once; in place of an answer that failed stands its error."""
    free = asyncio.Semaphore(concurrency)

    async def one(inputs: Mapping[str, object]) -> Result | CollabError:
        async with free:
            try:
                return await client.run(inputs, deadline_s)
            except CollabError as error:
                return error

    return list(await asyncio.gather(*map(one, reference.requests)))


async def assert_equal_answers(
    client: PlanClient, reference: Reference, concurrency: int = 8
) -> list[Result]:
    """Every request is answered with the whole model's bytes."""
    results = await run_all(client, reference, concurrency)
    answers = [result for result in results if isinstance(result, Result)]
    assert len(answers) == len(results), [r for r in results if not isinstance(r, Result)][:3]
    wrong = [i for i, answer in enumerate(answers) if not reference.same(i, answer.outputs)]
    assert not wrong, wrong
    return answers
