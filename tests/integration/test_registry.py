"""An image that a registry gives to who has its password, which an Airflow connection holds for certain users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.distribution import Distribution, need_distribution
from tests.integration.airflows import Airflow
from tests.integration.manual.images import config_of_private, make_private_layer
from tests.integration.stacks import Stack

pytestmark = pytest.mark.sites

USER, PASSWORD = "robot", "pa'ss \"w:ord\\ ü"
NAME = "science_registry"
UNKNOWN = "tasks[0].imagePullCredential: there is no Airflow connection of this name for the registries of your jobs"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distribution]:
    need_distribution()
    server = Distribution(tmp_path_factory.mktemp("registry"), USER, PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def image(registry: Distribution, request: pytest.FixtureRequest) -> str:
    """An image of each test's own, so that no node has it already."""
    repository = request.node.name.replace("[", "-").replace("]", "").lower()
    return registry.push(f"science/{repository}:1", config_of_private(), [make_private_layer()])


@pytest.fixture
def connection(airflow: Airflow, registry: Distribution) -> Iterator[dict[str, Any]]:
    """As an admin makes it in Airflow, for the user `demo`."""
    host, _, port = registry.host.partition(":")
    given = {
        "connection_id": NAME,
        "conn_type": "docker",
        "host": host,
        "port": int(port),
        "login": USER,
        "password": PASSWORD,
        "extra": json.dumps({"prominence_users": ["demo"]}),
    }
    assert airflow.http.post("/api/v2/connections", json=given).status_code == 201
    yield given
    airflow.http.delete(f"/api/v2/connections/{NAME}")


def document(image: str, *, runtime: str = "singularity", credential: Any = NAME) -> dict[str, Any]:
    task = {"image": image, "runtime": runtime}
    if credential is not None:
        task["imagePullCredential"] = credential
    return {"resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task]}


def test_a_job_pulls_by_the_connections_name(
    stack: Stack, registry: Distribution, image: str, connection: dict[str, Any]
) -> None:
    job = stack.submit(document(image))
    described = stack.wait(job)
    assert described["status"] == "completed", described
    assert stack.stdout(job) == b"private\n"
    [task], [ran] = described["tasks"], described["execution"]["tasks"]
    assert (task["imagePullCredential"], ran["imagePullStatus"]) == (NAME, "completed")
    assert registry.pulls(image.partition("/")[2].partition(":")[0]) == 1
    assert PASSWORD not in json.dumps(described, ensure_ascii=False)


def test_without_it_the_image_is_nobodys(stack: Stack, image: str, connection: dict[str, Any]) -> None:
    described = stack.wait(stack.submit(document(image, credential=None)))
    assert (described["status"], described["statusReason"]) == ("failed", "Container image pull failed"), described


def test_it_is_for_those_whom_it_names(other_client: httpx.Client, image: str, connection: dict[str, Any]) -> None:
    answer = other_client.post("/jobs", json=document(image))
    assert (answer.status_code, answer.json()) == (400, {"error": UNKNOWN})


def test_a_wrong_password_in_it(stack: Stack, airflow: Airflow, image: str, connection: dict[str, Any]) -> None:
    changed = {**connection, "password": "another-word"}
    airflow.http.patch(f"/api/v2/connections/{NAME}", json=changed).raise_for_status()
    described = stack.wait(stack.submit(document(image)))
    assert (described["status"], described["statusReason"]) == ("failed", "Container image pull failed"), described
    assert "another-word" not in json.dumps(described)
