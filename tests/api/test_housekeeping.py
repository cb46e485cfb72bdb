"""What happens though nobody asks: silent nodes, overdue queues, runs ended in Airflow, forgotten rows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from airflow_prominence import tokens
from tests.api.conftest import User, job
from tests.api.node import BASE, Driver, PretendNode, secret


def lose(now: float, up_since: float) -> list[str]:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store.nodes import lose_silent

    return transact(lambda session: lose_silent(session, now, up_since, 45, 60))


def test_a_silent_node_is_lost_and_its_job_evicted(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    node.take()
    assert node.name not in lose(time.time() + 30, 0)
    assert node.name in lose(time.time() + 60, 0)
    shown = alice.describe(job_id)
    assert (shown["status"], shown["statusReason"]) == ("failed", "Job was evicted")
    assert driver.view(job_id)["released"] is True
    assert node.post(f"/nodes/{node.id}/poll", {"boot": node.boot, "leases": {}, "timeout": 0}).status_code == 409


def test_silence_while_we_were_down_does_not_count(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    node.take()
    back = time.time() + 3600
    assert node.name not in lose(back + 30, up_since=back)
    assert alice.describe(job_id)["status"] == "pending"
    assert node.name in lose(back + 61, up_since=back)


def test_an_outage_is_noticed_by_the_gap_between_beats(database: Any) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store.housekeeping import beat

    start = time.time() + 100_000
    transact(lambda session: beat(session, start))
    since = transact(lambda session: beat(session, start + 5))
    assert transact(lambda session: beat(session, start + 10)) == since
    assert transact(lambda session: beat(session, start + 100)) == start + 100


def test_a_lost_lease_is_evicted(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    runner = node.take()
    answer = node.post(f"/nodes/{node.id}/lost", {"boot": node.boot, "lease": runner.lease, "reason": "all dead"})
    assert answer.status_code == 200
    assert alice.describe(job_id)["statusReason"] == "Job was evicted"


def test_a_job_too_long_in_the_queue_fails(database: Any, alice: User, driver: Driver) -> None:
    import sqlalchemy as sa

    limited, patient = alice.submit(policies={"maximumTimeInQueue": 1}), alice.submit()
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE prominence_job SET queue_until = queue_until - 61 WHERE id = :id"), {"id": limited}
        )
    driver.post("/maintenance")
    shown = alice.describe(limited)
    assert (shown["status"], shown["statusReason"]) == ("failed", "Maximum time queued was exceeded")
    assert alice.describe(patient)["status"] == "pending"


async def test_the_trigger_can_read_what_maintenance_answers(app: Any, http: Any) -> None:
    import httpx

    from airflow_prominence.driver.client import InternalClient

    client = InternalClient(
        f"http://api{BASE}",
        lambda ttl_s: tokens.mint(tokens.DRIVER, {"sub": "test"}, ttl_s, secret()),
        transport=httpx.ASGITransport(app),
    )
    try:
        done = await asyncio.wait_for(client.maintenance(), 10)
    finally:
        await client.close()
    assert {"lost_nodes", "overdue_jobs", "placed_jobs", "ended_jobs", "callbacks_deleted"} <= set(done)


@pytest.mark.parametrize("minutes", [0, -1])
def test_without_a_limit_a_job_waits(database: Any, alice: User, minutes: int) -> None:
    import sqlalchemy as sa

    job_id = alice.submit(policies={"maximumTimeInQueue": minutes})
    with database.connect() as connection:
        until = connection.scalar(sa.text("SELECT queue_until FROM prominence_job WHERE id = :id"), {"id": job_id})
    assert until is None


def test_a_job_whose_run_is_over_is_ended(database: Any, alice: User, driver: Driver) -> None:
    import sqlalchemy as sa

    job_id, other = alice.submit(), alice.submit()
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE dag_run SET state = 'failed' WHERE run_id = :run"), {"run": f"job-{job_id}.calculate-pi"}
        )
    assert driver.post("/maintenance").json()["ended_jobs"] >= 1
    assert alice.describe(job_id)["status"] == "deleted"
    assert alice.describe(other)["status"] == "pending"


def trigger(document: Any, user: str | None, run_id: str) -> None:
    """Start a run as Airflow's UI does."""
    from airflow_prominence.api.database import transact
    from airflow_prominence.dags.submit import submit_run

    conf = {"job": document} if document is not None else {}
    transact(
        lambda session: submit_run(
            session,
            dag_id="prominence_job",
            run_id=run_id,
            conf=conf,
            owner=user,  # type: ignore[arg-type]
        )
    )


def test_a_run_started_in_airflow_gets_a_job_of_who_pressed(alice: User, driver: Driver) -> None:
    run = f"manual-{time.time()}"
    trigger(job(name="from-ui"), alice.name, run)
    first = driver.post(f"/runs/prominence_job/{run}/job").json()["job"]
    again = driver.post(f"/runs/prominence_job/{run}/job").json()["job"]
    assert first["id"] == again["id"]
    assert first["owner"] == alice.name
    assert alice.describe(first["id"])["name"] == "from-ui"


@pytest.mark.parametrize(
    ("document", "user", "words"),
    [
        (None, "alice", "job: is missing"),
        (job(resources={"cpus": 0, "memory": 1}), "alice", "job.resources.cpus"),
        (job(), None, "no user"),
    ],
)
def test_a_run_without_a_valid_document_or_user_is_refused(
    driver: Driver, document: Any, user: str | None, words: str
) -> None:
    run = f"manual-{time.time()}"
    trigger(document, user, run)
    answer = driver.post(f"/runs/prominence_job/{run}/job")
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_confs_job_id_is_not_believed(alice: User, bob: User, driver: Driver) -> None:
    victim = bob.submit()
    run = f"manual-{time.time()}"
    from airflow_prominence.api.database import transact
    from airflow_prominence.dags.submit import submit_run

    transact(
        lambda session: submit_run(
            session, dag_id="prominence_job", run_id=run, conf={"job_id": victim}, owner=alice.name
        )
    )
    assert driver.post(f"/runs/prominence_job/{run}/job").status_code == 400


def test_a_cancelled_trigger_ends_the_job_only_if_its_task_failed(database: Any, alice: User, driver: Driver) -> None:
    import sqlalchemy as sa

    job_id = alice.submit()
    run = f"job-{job_id}.calculate-pi"
    find = sa.text("SELECT id, try_number FROM task_instance WHERE run_id = :run AND task_id = 'run'")
    with database.connect() as connection:
        ti_id, try_number = connection.execute(find, {"run": run}).one()
    told = {"job": job_id, "ti_id": str(ti_id), "try_number": try_number}
    change = sa.text("UPDATE task_instance SET state = :state WHERE id = :id")
    for state, acted in (("deferred", False), ("failed", True)):
        with database.begin() as connection:
            connection.execute(change, {"state": state, "id": ti_id})
        assert driver.post("/tis/cancelled", told).json() == {"acted": acted}
        assert (alice.describe(job_id)["status"] == "deleted") is acted
    assert driver.post("/tis/cancelled", {**told, "ti_id": "nonsense"}).json() == {"acted": False}


def test_outcome_tells_the_truth(alice: User, driver: Driver, node: PretendNode) -> None:
    for code in (0, 1):
        job_id = alice.submit()
        path = f"/runs/prominence_job/job-{job_id}.calculate-pi/outcome"
        assert driver.post(path).json()["pending"] is True
        driver.claim(job_id)
        node.take().run(exit_code=code)
        assert driver.post(path).json()["success"] is (code == 0)
    assert driver.post("/runs/prominence_job/none/outcome").json()["success"] is False


def test_health_names_what_is_not_well(http: Any) -> None:
    answer = http.get("/api/v1/health")
    assert answer.status_code == 409
    assert "scheduler" in answer.json()["errors"]
