"""Runs of DAGs that were made of files: whose workflows they are, and what of the run is in their documents."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import Driver

Run = Callable[..., tuple[str, str]]

FLOW: dict[str, Any] = {
    "jobs": [
        {
            "name": "a",
            "resources": {"cpus": 1, "memory": 1},
            "tasks": [{"image": "busybox", "cmd": "echo $who $ds", "env": {"AT": "$logical_date"}}],
            "outputFiles": ["$who.dat"],
        }
    ],
}


@pytest.fixture
def run(database: sa.Engine, tmp_path: Path, alice: User) -> Run:
    """Make a run, of a type and by a user, of a DAG whose file names alice as its owner; its DAG and its id."""

    def make(run_type: str, user: str | None, params: dict[str, Any] | None = None, **conf: Any) -> tuple[str, str]:
        from airflow_prominence import _compat
        from airflow_prominence.api.database import transact
        from airflow_prominence.dags.dropin import dag_of
        from airflow_prominence.dags.submit import submit_run

        dag_id, run_id = f"dropped-{uuid.uuid4().hex}", "run-1"
        text = json.dumps({**FLOW, "airflow": {"owner": alice.name, "params": params or {}}})
        dag = dag_of(text, f"{dag_id}.json")
        stub = tmp_path / f"{dag_id}.json.py"
        stub.write_text(text)
        dag.fileloc, dag.relative_fileloc = str(stub), stub.name
        transact(lambda session: _compat.write_dag(session, dag, bundle="documents"))
        transact(lambda session: submit_run(session, dag_id=dag_id, run_id=run_id, conf=conf, owner="nobody"))
        with database.begin() as connection:
            connection.execute(
                sa.text(
                    "UPDATE dag_run SET run_type = :type, triggering_user_name = :user, "
                    "logical_date = '2026-03-04 05:06:07+00' WHERE dag_id = :dag"
                ),
                {"type": run_type, "user": user, "dag": dag_id},
            )
        return dag_id, run_id

    return make


def begin(driver: Driver, of: tuple[str, str]) -> Any:
    return driver.post(f"/runs/{of[0]}/{of[1]}/job", {"group": "a"})


def owned(user: User, dag_id: str) -> list[dict[str, Any]]:
    return [found for found in user.get("/workflows").json() if found["name"] == dag_id]


@pytest.mark.parametrize(
    ("run_type", "pressed", "owner"),
    [
        ("scheduled", False, "alice"),
        ("manual", True, "bob"),
        # With values that bob has chosen, it must not act for alice
        ("backfill", True, "bob"),
        ("backfill", False, "alice"),
        ("asset_triggered", False, "alice"),
    ],
)
def test_whose_the_workflow_is(
    run: Run, driver: Driver, alice: User, bob: User, run_type: str, pressed: bool, owner: str
) -> None:
    of = run(run_type, bob.name if pressed else None)
    assert begin(driver, of).status_code == 200
    users = {"alice": alice, "bob": bob}
    assert {name: len(owned(user, of[0])) for name, user in users.items()} == {
        name: int(name == owner) for name in users
    }
    [found] = owned(users[owner], of[0])
    users[owner].delete(f"/workflows/{found['id']}")


def test_a_run_that_nobody_has_started_is_nobodys(run: Run, driver: Driver, alice: User) -> None:
    of = run("manual", None)
    answer = begin(driver, of)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "The run was started by no user, so its workflow would have no owner",
    )
    assert owned(alice, of[0]) == []


def test_values_of_the_run_are_in_its_document(run: Run, driver: Driver, bob: User) -> None:
    of = run("manual", bob.name, {"who": "world", "n": 3}, who="$n", job_id=7)
    assert begin(driver, of).status_code == 200
    [found] = owned(bob, of[0])
    [described] = bob.get(f"/workflows/{found['id']}").json()
    [job] = described["jobs"]
    assert job["tasks"][0]["cmd"] == "echo $n 2026-03-04"
    assert job["tasks"][0]["env"] == {
        "AT": "2026-03-04T05:06:07+00:00",
        "PROMINENCE_PARAMETER_who": "$n",
        "PROMINENCE_PARAMETER_n": "3",
        "PROMINENCE_PARAMETER_logical_date": "2026-03-04T05:06:07+00:00",
        "PROMINENCE_PARAMETER_ds": "2026-03-04",
    }
    assert job["outputFiles"] == ["$n.dat"]
    # What was run can be run again over REST
    clone = bob.put(f"/workflows/{found['id']}/clone")
    assert clone.status_code == 201, clone.text
    for workflow in (found["id"], clone.json()["id"]):
        bob.delete(f"/workflows/{workflow}")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("../x", "jobs[0].outputFiles[0]: must not contain .. as a part of the path"),
        ([1], "params.who: must be a string or a number"),
    ],
)
def test_values_that_cannot_be(run: Run, driver: Driver, bob: User, value: Any, sentence: str) -> None:
    of = run("manual", bob.name, {"who": "world"}, who=value)
    answer = begin(driver, of)
    assert (answer.status_code, answer.json()["error"]) == (400, sentence)
    assert owned(bob, of[0]) == []
