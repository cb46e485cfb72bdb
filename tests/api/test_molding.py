"""Jobs that could use more cores than they must have get what is free, and everything that follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode


@pytest.mark.parametrize(
    ("resources", "cpus", "memory"),
    [
        ({"cpusRange": [1, 16], "memory": 2}, 4, 2),
        ({"cpusRange": [1, 3], "memory": 2}, 3, 2),
        ({"cpusRange": [1, 16], "memoryPerCpu": 2}, 2, 4),
        ({"cpusOptions": [1, 4], "memoryPerCpu": 1}, 4, 4),
        ({"cpusOptions": [1, 8], "memory": 1}, 1, 1),
        ({"cpusOptions": [3, 2], "memory": 1}, 2, 1),
    ],
)
def test_a_job_gets_the_size_that_it_likes_best(
    alice: User, driver: Driver, node: PretendNode, resources: dict[str, Any], cpus: int, memory: int
) -> None:
    """Of a node with four cores and 4 GB."""
    job_id = alice.submit(resources={"disk": 1, **resources})
    driver.claim(job_id)
    runner = node.take(job_id)
    assert runner.assignment["resources"]["cpus"] == cpus
    assert runner.assignment["resources"]["memory_mb"] == memory * 1024
    assert runner.assignment["env"]["PROMINENCE_CPUS"] == str(cpus)
    placed = next(event for event in driver.view(job_id)["events"] if event["kind"] == "placed")
    assert f": {cpus} CPU, {memory} GB memory, " in placed["message"]
    [here] = [site for site in alice.get("/resources").json()["existing"] if site["site"] == node.site]
    assert here["free"]["cpus"] == 4 - cpus
    runner.run()
    provisioned = alice.describe(job_id)["execution"]["provisionedResources"]
    assert (provisioned["cpus"], provisioned["memory"]) == (cpus, memory)
    assert alice.describe(job_id)["resources"] == {"disk": 1, "nodes": 1, **resources}, "as it was asked for"


def test_what_can_be_had_only_in_part_does_not_wait(alice: User, driver: Driver, node: PretendNode) -> None:
    first = alice.submit(resources={"cpus": 3, "memory": 1, "disk": 1})
    driver.claim(first)
    node.take(first)
    molded = alice.submit(resources={"cpusRange": [1, 4], "memory": 1, "disk": 1})
    driver.claim(molded)
    assert node.take(molded).assignment["resources"]["cpus"] == 1
