"""Passwords of registries in Airflow's connections: for whom, for which images, and that nobody else sees them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode

WORD = "unmistakable-password"
UNKNOWN = "tasks[0].imagePullCredential: there is no Airflow connection of this name for the registries of your jobs"
Add = Callable[..., str]


@pytest.fixture
def add(database: sa.Engine) -> Iterator[Add]:
    """A function that makes a connection and returns its name."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    made: list[str] = []

    def make(extra: dict[str, Any], **given: Any) -> str:
        name = f"registry_{uuid.uuid4().hex[:8]}"
        fields = {"conn_type": "docker", "host": "registry.example", "login": "robot", "password": WORD, **given}
        with create_session(scoped=False) as session:
            session.add(Connection(conn_id=name, extra=json.dumps(extra), **fields))
        made.append(name)
        return name

    yield make
    with create_session(scoped=False) as session:
        session.execute(sa.delete(Connection).where(Connection.conn_id.in_(made)))


def refusal(user: User, name: str, image: str = "registry.example/a/b:1") -> str | None:
    answer = user.post("/jobs", json=job(tasks=[{"image": image, "imagePullCredential": name}]))
    if answer.status_code == 201:
        return None
    assert answer.status_code == 400
    return str(answer.json()["error"])


def test_only_the_jobs_node_gets_the_password(
    alice: User, database: sa.Engine, driver: Driver, node: PretendNode, add: Add
) -> None:
    name = add({"prominence_users": ["somebody", alice.name]})
    job_id = alice.submit(tasks=[{"image": "registry.example/a/b:1", "imagePullCredential": name}])
    assert alice.describe(job_id)["tasks"][0]["imagePullCredential"] == name
    driver.claim(job_id)
    [task] = node.take().assignment["tasks"]
    assert (task["credential"], task["image_refusal"]) == ({"username": "robot", "token": WORD}, None)
    assert WORD not in alice.get(f"/jobs/{job_id}").text
    with database.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT t::text FROM "{table}" t')).scalars().all()
            assert not any(WORD in row for row in rows), table


def test_for_whom_a_connection_is(http: Any, alice: User, bob: User, add: Add) -> None:
    from airflow_prominence.api import usertokens

    staff = User(http, "rita", usertokens.issue("rita", ["staff"], days=1)[0])
    both, everybody = f"{alice.name}, rita", [alice, bob, staff]
    for extra, who in (
        ({}, []),
        ({"prominence_users": both}, [alice, staff]),
        ({"prominence_users": ["*"]}, everybody),
        ({"prominence_groups": ["staff", "other"]}, [staff]),
        ({"prominence_groups": "*"}, []),
        ({"prominence_users": {alice.name: True}, "prominence_groups": 7}, []),
    ):
        name = add(extra)
        for user in everybody:
            assert refusal(user, name) == (None if user in who else UNKNOWN), (extra, user.name)
    # what is no registry's connection, or none at all, looks the same
    assert refusal(alice, add({"prominence_users": "*"}, conn_type="http")) == UNKNOWN
    assert refusal(alice, "no_such_connection") == UNKNOWN


@pytest.mark.parametrize(
    ("given", "image", "known"),
    [
        ({}, "registry.example/a/b", None),
        ({"host": "https://Registry.Example/v2/"}, "registry.example/a/b@sha256:" + "0" * 64, None),
        ({"port": 5000}, "registry.example:5000/a/b", None),
        ({"port": 5000}, "registry.example/a/b", "registry.example:5000"),
        ({"host": "https://index.docker.io/v1/"}, "private/image:2", None),
        ({"host": "docker.io"}, "index.docker.io/private/image", None),
        ({}, "https://registry.example/files/x.sif", None),
        ({}, "https://registry.example.evil.example/files/x.sif", "registry.example"),
        ({}, "evil.example/registry.example/b", "registry.example"),
        ({}, "private/image", "registry.example"),
        ({}, "shub://registry.example/a/b", "registry.example"),
        ({"host": ""}, "private/image", "no registry"),
    ],
)
def test_a_password_goes_to_its_own_registry_only(
    alice: User, add: Add, given: dict[str, Any], image: str, known: str | None
) -> None:
    said = refusal(alice, add({"prominence_users": "*"}, **given), image)
    if known is None:
        assert said is None
    else:
        assert said == (
            f"tasks[0].imagePullCredential: the Airflow connection is for {known}, not for the registry of this image"
        )


@pytest.mark.parametrize("given", [{"login": ""}, {"password": None}])
def test_a_connection_without_a_password(alice: User, add: Add, given: dict[str, Any]) -> None:
    sentence = "tasks[0].imagePullCredential: the Airflow connection has no user name or no password"
    assert refusal(alice, add({"prominence_users": "*"}, **given)) == sentence


def test_what_was_taken_away_in_the_meantime_pulls_nothing(
    alice: User, driver: Driver, node: PretendNode, add: Add, database: sa.Engine
) -> None:
    name = add({"prominence_users": "*"})
    job_id = alice.submit(tasks=[{"image": "registry.example/a/b:1", "imagePullCredential": name}])
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM connection WHERE conn_id = :name"), {"name": name})
    driver.claim(job_id)
    [task] = node.take().assignment["tasks"]
    assert task["credential"] is None
    assert task["image_refusal"] == "image: " + UNKNOWN.partition(".")[2]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "must not be empty"),
        ("my pass word", "is not the name of an Airflow connection"),
        ("x" * 201, "is too long: at most 200 characters are allowed"),
        (7, "must be an object or a string, not 7"),
    ],
)
def test_what_is_no_name(alice: User, value: object, sentence: str) -> None:
    answer = alice.post("/jobs", json=job(tasks=[{"image": "a", "imagePullCredential": value}]))
    assert (answer.status_code, answer.json()) == (400, {"error": f"tasks[0].imagePullCredential: {sentence}"})
