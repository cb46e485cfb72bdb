"""Jobs of tasks in DAGs that people write: made once a task, whose they are, tried again, replaced."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.conftest import job as document
from tests.api.node import Driver, PretendNode


class Task:
    """A run of a DAG with one task, as Airflow keeps it."""

    def __init__(self, database: Any, driver: Driver, *, user: str | None, run_type: str, owner: str) -> None:
        from airflow.sdk import DAG

        from airflow_prominence import _compat
        from airflow_prominence.operators import JobOperator
        from airflow_prominence.operators import job as module

        self.database, self.driver = database, driver
        self.dag_id, self.run_id = f"written-{uuid.uuid4().hex[:8]}", "a-run"
        owned = {"owner": owner} if owner else {}
        with DAG(self.dag_id, schedule=None, default_args=owned, is_paused_upon_creation=False) as dag:
            JobOperator(task_id="work", job=document())
        dag.fileloc, dag.relative_fileloc = str(module.__file__), "written.py"
        with _compat.create_session() as session:
            _compat.write_dag(session, dag, bundle="tests")
            state = _compat.dag_state(session, self.dag_id)
            assert state is not None
            runnable = _compat.runnable_dag(session, state)
            assert runnable is not None
            _compat.create_dag_run(session, runnable, run_id=self.run_id, conf={}, user=user or "nobody")
        self._change("dag_run", run_type=run_type, triggering_user_name=user)
        self._change("task_instance", state="deferred")

    def _change(self, table: str, **values: Any) -> None:
        changed = ", ".join(f"{name} = :{name}" for name in values)
        with self.database.begin() as connection:
            statement = f"UPDATE {table} SET {changed} WHERE dag_id = :dag"
            connection.execute(sa.text(statement), {**values, "dag": self.dag_id})

    def bring(self, job: Any = None) -> Any:
        """What its trigger does first."""
        body = {"group": "work", "slot": -1, "task_id": "work", "document": job or document()}
        return self.driver.post(f"/runs/{self.dag_id}/{self.run_id}/job", body)

    def job(self, job: Any = None) -> dict[str, Any]:
        answer = self.bring(job)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])

    def again(self) -> None:
        """Retried or cleared: a new instance."""
        self._change("task_instance", id=uuid.uuid4(), state="deferred", try_number=2)

    def look(self, **what: int) -> Any:
        return self.driver.post(f"/runs/{self.dag_id}/{self.run_id}/look", {"task_id": "work", **what})


Written = Callable[..., Task]


@pytest.fixture
def written(http: Any, database: Any, driver: Driver) -> Written:
    def make(user: str | None = "nora", run_type: str = "manual", owner: str = "olga") -> Task:
        return Task(database, driver, user=user, run_type=run_type, owner=owner)

    return make


@pytest.mark.parametrize(
    ("user", "run_type", "owner", "whose"),
    [
        ("nora", "manual", "olga", "nora"),
        (None, "manual", "olga", "olga"),
        (None, "scheduled", "olga", "olga"),
        ("nora", "backfill", "olga", "olga"),
        ("nora", "manual", "", "nora"),
    ],
)
def test_whose_a_job_is(written: Written, user: str | None, run_type: str, owner: str, whose: str) -> None:
    assert written(user, run_type, owner).job()["owner"] == whose


def test_a_job_of_nobody_is_refused(written: Written) -> None:
    answer = written(None, "scheduled", "").bring()
    assert answer.status_code == 400
    assert "names no owner" in answer.json()["error"]


def test_a_task_has_one_job_however_often_its_trigger_begins(written: Written, node: PretendNode) -> None:
    task = written()
    first = task.job()
    second = task.job()
    assert (second["id"], second["attempt"], first["attempt"]) == (first["id"], 1, 1)


def test_a_retry_tries_the_job_again_and_ends_what_still_goes_on(written: Written, node: PretendNode) -> None:
    task = written()
    first = task.job()
    task.driver.claim(first["id"])
    runner = node.take()
    runner.report("running")
    task.again()
    second = task.job()
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    assert [order["lease"] for order in node.poll()["stop"]] == [runner.lease]
    assert task.job()["attempt"] == 2


def test_another_document_is_another_job(written: Written, node: PretendNode) -> None:
    task = written()
    first = task.job()
    task.again()
    second = task.job(document(name="mended"))
    assert (second["id"] != first["id"], second["name"], second["attempt"]) == (True, "mended", 1)
    before = task.driver.view(first["id"])
    assert (before["phase"], before["status"]) == ("done", "deleted")
    assert "another document" in before["reason"]
    assert task.job(document(name="mended"))["id"] == second["id"]


def test_a_document_with_a_secret_is_refused(written: Written) -> None:
    secret = {"imagePullCredential": {"username": "me", "token": "hush"}}
    answer = written().bring(document(tasks=[{"image": "a", "runtime": "singularity", "cmd": "b", **secret}]))
    assert answer.status_code == 400
    assert "imagePullCredential" in answer.json()["error"]
    assert "hush" not in answer.text


def test_a_broken_document_is_refused_by_a_path(written: Written) -> None:
    answer = written().bring(document(tasks=[]))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("job.tasks")


def test_a_sensor_sees_its_owners_jobs_and_workflows_only(written: Written, alice: User, bob: User) -> None:
    task = written(user=alice.name)
    job = alice.submit()
    assert task.look(job=job).json()["job"]["id"] == job
    refused = task.look(job=bob.submit())
    assert refused.status_code == 400
    assert "does not exist, or is not" in refused.json()["error"]
    workflow = int(alice.post("/workflows", json={"name": "w", "jobs": [document(name="a")]}).json()["id"])
    seen = task.look(workflow=workflow).json()["workflow"]
    assert (seen["ended"], seen["progress"]["total"]) == (False, 1)
    assert written(user=bob.name).look(workflow=workflow).status_code == 400


def test_outputs_are_told_by_key(alice: User, driver: Driver, node: PretendNode) -> None:
    job = alice.submit(outputFiles=["out.txt"])
    driver.claim(job)
    runner = node.take()
    runner.report("running")
    data = {"name": "out.txt", "asked": "out.txt", "kind": "file", "file": "out.txt", "size": 3, "sha256": "0" * 64}
    runner.report("output", **data)
    from tests.api.node import BASE, driver_headers

    answer = driver._http.get(f"{BASE}/jobs/{job}/outputs", headers=driver_headers()).json()
    [output] = answer["outputs"]
    assert (output["file"], output["size"]) == ("out.txt", 3)
    assert output["key"].startswith("scratch/")
    assert "url" not in output
