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
        from airflow_prominence.operators import JobOperator, prominence_task_group
        from airflow_prominence.operators import job as module

        self.database, self.driver = database, driver
        self.dag_id, self.run_id = f"written-{uuid.uuid4().hex[:8]}", "a-run"
        owned = {"owner": owner} if owner else {}
        with DAG(self.dag_id, schedule=None, default_args=owned, is_paused_upon_creation=False) as dag:
            JobOperator(task_id="work", job=document())
            prominence_task_group(document(), group_id="group")
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
            mine = " AND task_id = 'work'" if table == "task_instance" else ""
            statement = f"UPDATE {table} SET {changed} WHERE dag_id = :dag{mine}"
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
        ("nora", "backfill", "olga", "nora"),
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


class Group:
    """A job in phases, each of which holds for its task."""

    def __init__(self, task: Task, node: PretendNode, **changes: Any) -> None:
        self.task, self.driver, self.node = task, task.driver, node
        body = {"group": "group", "slot": -1, "task_id": "group.provision", "document": document(**changes)}
        answer = self.driver.post(f"/runs/{task.dag_id}/{task.run_id}/job", {**body, "holds": True})
        assert answer.status_code == 200, answer.text
        self.id = int(answer.json()["job"]["id"])
        self.driver.claim(self.id)
        self.runner = node.take()

    def view(self) -> dict[str, Any]:
        return self.driver.view(self.id)

    def set(self, phase: str, state: str) -> None:
        with self.task.database.begin() as connection:
            connection.execute(
                sa.text("UPDATE task_instance SET state = :state WHERE dag_id = :dag AND task_id = :task"),
                {"state": state, "dag": self.task.dag_id, "task": f"group.{phase}"},
            )

    def go(self, phase: str, ti_id: str = "") -> dict[str, Any]:
        """The task of a phase has begun."""
        with self.task.database.begin() as connection:
            found = connection.execute(
                sa.text("SELECT id FROM task_instance WHERE dag_id = :dag AND task_id = :task"),
                {"dag": self.task.dag_id, "task": f"group.{phase}"},
            ).scalar_one()
        answer = self.driver.post(f"/jobs/{self.id}/go", {"phase": phase, "ti_id": ti_id or str(found)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])

    def held(self, phase: str, **data: Any) -> Any:
        """The runner comes to a border; to which phase it may go."""
        return self.runner.report("held", phase=phase, **data)["go"]

    def may_go(self) -> Any:
        """What the runner hears when it asks again."""
        return self.runner.send().json()["go"]


def test_a_job_in_phases_holds_at_each_border_until_the_phases_task_has_begun(
    written: Written, node: PretendNode
) -> None:
    group = Group(written(), node)
    assert group.runner.assignment["holds"] is True
    assert group.held("staging_in") == "ready"
    assert group.view()["holding"] == "staging_in"
    group.go("stage_in")
    assert group.may_go() == "staging_in"
    group.runner.report("stage_in")
    assert group.held("running") == "staging_in"
    assert group.view()["holding"] == "running"
    group.go("run")
    assert group.may_go() == "running"
    group.runner.report("running")
    assert group.view()["holding"] is None
    assert group.held("staging_out", tasks_success=True, tasks=[{"exitCode": 0}]) == "running"
    view = group.view()
    assert (view["holding"], view["tasks_success"], view["execution"]["tasks"]) == (
        "staging_out",
        True,
        [{"exitCode": 0}],
    )
    group.go("stage_out")
    assert group.may_go() == "staging_out"
    group.runner.report("end", status="completed", reason="", node_success=True, execution={"tasks": []})
    assert (group.view()["status"], group.view()["holding"]) == ("completed", None)


def test_other_jobs_do_not_hold(alice: User, driver: Driver, node: PretendNode) -> None:
    driver.claim(alice.submit())
    runner = node.take()
    assert runner.assignment["holds"] is False
    assert runner.report("stage_in")["go"] is None


def test_a_task_that_was_cleared_lets_nothing_go_on(written: Written, node: PretendNode) -> None:
    group = Group(written(), node)
    group.held("staging_in")
    group.go("stage_in", ti_id=str(uuid.uuid4()))
    assert group.may_go() == "ready"
    group.set("stage_in", "failed")
    group.go("stage_in")
    assert group.may_go() == "ready"


@pytest.mark.parametrize("state", ["upstream_failed", "skipped"])
def test_a_job_that_will_never_be_let_go_on_is_ended(written: Written, node: PretendNode, state: str) -> None:
    group = Group(written(), node)
    group.go("stage_in")
    group.runner.report("stage_in")
    group.held("running")
    group.set("run", state)
    view = group.go("stage_out")
    assert (view["phase"], view["status"]) == ("done", "failed")
    assert view["reason"] == f"Job was not let go on in Airflow: group.run is {state}"
    assert [order["lease"] for order in node.poll()["stop"]] == [group.runner.lease]
    assert group.runner.send().json()["stop"]


def test_the_release_ends_what_still_holds(written: Written, node: PretendNode) -> None:
    group = Group(written(), node)
    group.held("staging_in")
    for phase in ("stage_in", "run", "stage_out"):
        group.set(phase, "skipped")
    assert group.go("release")["status"] == "failed"
    assert node.poll()["stop"]


def test_a_failed_run_still_stages_out(written: Written, node: PretendNode) -> None:
    group = Group(written(), node)
    group.go("run")
    group.runner.report("running")
    group.held("staging_out", tasks_success=False, tasks=[{"exitCode": 3}])
    group.set("run", "failed")
    group.go("stage_out")
    assert group.may_go() == "staging_out"


def test_an_attempt_that_is_followed_by_another_does_not_hold_after_its_tasks(
    written: Written, node: PretendNode
) -> None:
    group = Group(written(), node, policies={"maximumRetries": 1})
    group.go("run")
    group.runner.report("running")
    assert group.held("staging_out", tasks_success=False, tasks=[{"exitCode": 3}]) == "staging_out"
    group.runner.report("end", status="completed", reason="", node_success=False, execution={"tasks": []})
    view = group.view()
    assert (view["attempt"], view["allowed"], view["holding"], view["tasks_success"]) == (2, "running", None, None)
    group.driver.claim(group.id)
    group.runner = node.take()
    group.runner.report("running")
    assert group.held("staging_out", tasks_success=True) == "running"


def test_a_report_of_holding_names_a_border(written: Written, node: PretendNode) -> None:
    runner = Group(written(), node).runner
    answer = runner.send(runner.made("held", phase="done"))
    assert answer.status_code == 400
    assert "border" in answer.json()["error"]


def test_a_task_that_somebody_failed_ends_its_job(written: Written, database: Any, node: PretendNode) -> None:
    task = written()
    job = task.job()["id"]

    def told() -> bool:
        with database.begin() as connection:
            query = "SELECT id, try_number FROM task_instance WHERE dag_id = :dag AND task_id = 'work'"
            ti_id, try_number = connection.execute(sa.text(query), {"dag": task.dag_id}).one()
        body = {"job": job, "ti_id": str(ti_id), "try_number": try_number}
        return bool(task.driver.post("/tis/cancelled", body).json()["acted"])

    # A trigger that was only moved to another triggerer: the task is still deferred.
    assert told() is False
    assert task.driver.view(job)["phase"] != "done"
    task._change("task_instance", state="failed")
    assert told() is True
    assert task.driver.view(job)["status"] == "deleted"


def test_each_index_of_a_mapped_task_has_a_job_of_its_own(written: Written) -> None:
    task = written()

    def of(slot: int) -> int:
        body = {"group": "work", "slot": slot, "task_id": "work", "document": document()}
        answer = task.driver.post(f"/runs/{task.dag_id}/{task.run_id}/job", body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["job"]["id"])

    assert len({of(0), of(1), of(0), of(1)}) == 2
