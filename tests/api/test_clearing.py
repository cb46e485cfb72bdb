"""Clearing a run's tasks in Airflow: a new attempt of the job, opened once, by whichever task comes first."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode


class Run:
    """A job's run, its tasks changed as Airflow changes them."""

    def __init__(self, database: Any, driver: Driver, job: int) -> None:
        self.database, self.driver = database, driver
        self.path = f"/runs/prominence_job/{driver.view(job)['run_id']}/job"
        self.run_id = self.path.split("/")[3]

    def contact(self) -> dict[str, Any]:
        """What a trigger does first."""
        answer = self.driver.post(self.path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])

    def set(self, task: str = "run", **values: Any) -> None:
        changed = ", ".join(f"{name} = :{name}" for name in values)
        with self.database.begin() as connection:
            statement = f"UPDATE task_instance SET {changed} WHERE run_id = :run AND task_id = :task"
            connection.execute(sa.text(statement), {**values, "run": self.run_id, "task": task})

    def clear(self, task: str = "run") -> str:
        """The task's new instance."""
        fresh = uuid.uuid4()
        self.set(task, id=fresh, state=None)
        return str(fresh)


def _begun(alice: User, driver: Driver, node: PretendNode, database: Any, **changes: Any) -> tuple[int, Run]:
    job = alice.submit(**changes)
    run = Run(database, driver, job)
    assert run.contact()["attempt"] == 1
    driver.claim(job)
    return job, run


def test_clearing_an_ended_job_opens_one_attempt(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job, run = _begun(alice, driver, node, database, policies={"maximumRetries": 0})
    node.take().run(exit_code=1)
    assert run.contact()["phase"] == "done"
    run.clear()
    seen = [run.contact() for _ in range(2)]
    assert [(view["attempt"], view["node_success"]) for view in seen] == [(2, None)] * 2
    # a pass of the placer's own may have come between
    assert {view["phase"] for view in seen} <= {"queued", "ready"}
    assert alice.describe(job)["status"] == "pending"
    assert "endTime" not in alice.describe(job)["events"]
    driver.claim(job)
    node.take().run()
    # A task that was cleared with the others and comes when the new attempt has ended opens none.
    view = run.contact()
    assert (view["attempt"], view["status"], view["node_success"]) == (2, "completed", True)


def test_a_cleared_job_may_be_retried_as_often_as_before(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    _, run = _begun(alice, driver, node, database, policies={"maximumRetries": 1})
    run.clear()
    assert run.contact()["max_attempts"] == 3


def test_clearing_a_job_that_goes_on_ends_its_attempt(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    job, run = _begun(alice, driver, node, database)
    runner = node.take()
    runner.report("running")
    run.clear()
    assert run.contact()["attempt"] == 2
    assert [order["lease"] for order in node.poll()["stop"]] == [runner.lease]
    assert runner.send(runner.made("log", message="late")).status_code == 409
    assert alice.describe(job)["execution"]["attempts"][0]["status"] == "deleted"


def test_the_next_attempt_waits_until_the_one_before_is_dead(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    job, run = _begun(alice, driver, node, database)
    runner = node.take()
    runner.report("running")
    run.clear()
    run.contact()
    assert driver.claim(job)["phase"] == "queued"
    assert node.poll()["start"] == []
    # its runner is over, so the node doesn't list it any more
    del node.held[runner.lease]
    node.poll()
    assert driver.claim(job)["phase"] == "ready"
    assert node.take(job).lease != runner.lease


def test_clearing_a_job_that_waits_changes_nothing(database: Any, alice: User, driver: Driver) -> None:
    job = alice.submit()
    run = Run(database, driver, job)
    run.contact()
    run.clear()
    assert run.contact()["attempt"] == 1


def test_a_task_that_will_drive_nothing_opens_nothing(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    """Cleared, then failed by hand before it began: the release, which is left to run, must not start the job."""
    _, run = _begun(alice, driver, node, database)
    node.take().run()
    run.clear()
    run.set(state="failed")
    view = run.contact()
    assert (view["attempt"], view["phase"]) == (1, "done")
