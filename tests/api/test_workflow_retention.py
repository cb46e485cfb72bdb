"""How long workflows are kept: with all their jobs, and as long as a rerun shows something of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode
from tests.api.test_workflows import Flow, job, one, taken

DAY = 86400.0


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """A round of retention; descriptions are kept for 100 days, the rest as long."""
    from airflow_prominence.api import retention
    from airflow_prominence.api.settings import settings

    now = settings()
    days = dataclasses.replace(now.kept, jobs_days=100.0, stdout_days=0.0, outputs_days=0.0, warn_days=0.0)
    changed = dataclasses.replace(now, kept=days)
    monkeypatch.setattr(retention, "settings", lambda: changed)
    return retention.sweep


def age(database: sa.Engine, workflow: int, days: float) -> None:
    with database.begin() as connection:
        for table, key in (("prominence_workflow", "id"), ("prominence_job", "workflow_id")):
            statement = f"UPDATE {table} SET ended_at = ended_at - :s WHERE {key} = :id"
            connection.execute(sa.text(statement), {"s": days * DAY, "id": workflow})


def rows(database: sa.Engine, statement: str, **values: Any) -> int:
    with database.connect() as connection:
        return int(connection.execute(sa.text(statement), values).scalar_one())


def test_a_workflow_goes_with_its_jobs_and_its_dag(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine, sweep: Callable[[], dict[str, int]]
) -> None:
    made = Flow(alice, driver, job("a"), job("b"))
    for runner in taken(node, 2):
        runner.run()
    made.ended()
    age(database, made.id, 99)
    sweep()
    assert made.describe()["progress"]["done"] == 2
    age(database, made.id, 2)
    # One of its jobs is younger: it stays with the workflow no longer than that.
    sweep()
    sweep()
    assert alice.get(f"/workflows/{made.id}").json() == []
    assert rows(database, "SELECT count(*) FROM prominence_job WHERE workflow_id = :id", id=made.id) == 0
    assert rows(database, "SELECT count(*) FROM dag WHERE dag_id = :dag", dag=made.dag_id) == 0
    assert rows(database, "SELECT count(*) FROM dag_run WHERE dag_id = :dag", dag=made.dag_id) == 0


def test_an_active_workflow_keeps_its_jobs_however_old(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine, sweep: Callable[[], dict[str, int]]
) -> None:
    made = Flow(alice, driver, job("a"), job("b"), dependencies={"a": ["b"]})
    one(node).run()
    age(database, made.id, 200)
    sweep()
    assert set(made.jobs()) == {"flow/a", "flow/b"}
    alice.delete(f"/workflows/{made.id}")


def test_what_a_rerun_shows_stays_as_long_as_that(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine, sweep: Callable[[], dict[str, int]]
) -> None:
    made = Flow(alice, driver, job("good"), job("bad"))
    good, bad = taken(node, 2)
    good.write("stdout", 0, b"kept")
    good.run()
    bad.run(exit_code=1)
    made.ended()
    again = int(alice.put(f"/workflows/{made.id}").json()["id"])
    one(node).run()
    age(database, made.id, 150)
    sweep()
    assert alice.get(f"/workflows/{again}/good/stdout").text == "kept"
    age(database, again, 150)
    for _ in range(3):
        sweep()
    assert alice.get(f"/workflows/{made.id}").json() == []
    assert alice.get(f"/workflows/{again}").json() == []
