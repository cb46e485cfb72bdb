"""What jobs used, as ``/accounting`` adds it up: whose it shows to whom, and of which days."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest

from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode


def today() -> str:
    return dt.datetime.now(dt.timezone.utc).date().isoformat()


def usage(user: User, start: str = "", end: str = "", **more: str) -> dict[str, Any]:
    answer = user.get("/accounting", params={"start": start or today(), "end": end or today(), **more})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"usage"}
    return dict(answer.json()["usage"])


def member(http: Any, *groups: str) -> User:
    from airflow_prominence.api import usertokens

    name = f"user-{uuid.uuid4().hex[:8]}"
    return User(http, name, usertokens.issue(name, groups, days=1)[0])


def run(user: User, driver: Driver, node: PretendNode, *exit_codes: int, wall: Any = 1800.0, **changes: Any) -> int:
    """Run a job with an attempt for each exit code; each task's CPU time is half its wall time."""
    job_id = user.submit(**changes)
    for code in exit_codes:
        driver.claim(job_id)
        runner = node.take()
        runner.report("stage_in")
        runner.report("running")
        cpu = wall / 2 if isinstance(wall, float) else wall
        tasks = [{"exitCode": code, "wallTimeUsage": wall, "cpuTimeUsage": cpu}] * len(job(**changes)["tasks"])
        runner.report("end", status="completed", reason="", node_success=code == 0, execution={"tasks": tasks})
    return job_id


def test_wall_time_counts_for_each_core_and_attempt_and_cpu_time_as_it_is(
    alice: User, bob: User, driver: Driver, node: PretendNode
) -> None:
    two = [{"image": "busybox", "runtime": "singularity"}] * 2
    run(alice, driver, node, 0, tasks=two, resources={"cpus": 2, "memory": 1, "disk": 1})
    run(alice, driver, node, 1, 0, policies={"maximumRetries": 1})
    run(bob, driver, node, 0)
    # 2 tasks x 0.5 h x 2 cores, and 2 attempts x 0.5 h x 1 core.
    assert usage(alice) == {"users": {alice.name: {"cpuTime": 1.0, "wallTime": 3.0, "numberOfJobs": 2}}, "groups": {}}


def test_a_job_that_never_ran_used_nothing_and_one_that_told_nothing_counts_by_the_clock(
    alice: User, driver: Driver, node: PretendNode
) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store.tables import Attempt

    alice.delete(f"/jobs/{alice.submit()}")
    assert usage(alice) == {"users": {}, "groups": {}}
    job_id = alice.submit()
    driver.claim(job_id)
    runner = node.take()
    runner.report("stage_in")
    runner.report("running")
    alice.delete(f"/jobs/{job_id}")

    def ran_for_an_hour(session: Any) -> None:
        attempt = session.get_one(Attempt, (job_id, 1))
        attempt.running_at = attempt.ended_at - 3600

    transact(ran_for_an_hour)
    assert usage(alice)["users"][alice.name] == {"cpuTime": 0.0, "wallTime": 1.0, "numberOfJobs": 1}


def test_what_a_node_tells_that_is_no_number_counts_as_nothing(alice: User, driver: Driver, node: PretendNode) -> None:
    run(alice, driver, node, 0, wall="much")
    used = usage(alice)["users"][alice.name]
    assert (used["cpuTime"], used["numberOfJobs"]) == (0.0, 1)


def test_groups_see_each_other_and_nobody_else(http: Any, driver: Driver, node: PretendNode) -> None:
    fusion, laser = f"fusion-{uuid.uuid4().hex[:6]}", f"laser-{uuid.uuid4().hex[:6]}"
    ann, ben, eve = member(http, fusion, laser), member(http, fusion), member(http, f"{fusion}/x", laser[:-1])
    for user in (ann, ben, eve):
        run(user, driver, node, 0)
    one = {"cpuTime": 0.25, "wallTime": 0.5, "numberOfJobs": 1}
    two = {"cpuTime": 0.5, "wallTime": 1.0, "numberOfJobs": 2}
    assert usage(ann) == {"users": {ann.name: one}, "groups": {}}
    assert usage(ann, by_group="true") == {"users": {}, "groups": {fusion: two, laser: one}}
    assert usage(ann, show_all_users="true") == {"users": {ann.name: one, ben.name: one}, "groups": {}}
    both = usage(ben, by_group="true", show_all_users="true")
    assert both == {"users": {ann.name: one, ben.name: one}, "groups": {fusion: two}}
    assert usage(eve, show_all_users="true") == {"users": {eve.name: one}, "groups": {}}
    alone = member(http)
    assert usage(alone, by_group="true", show_all_users="true") == {"users": {}, "groups": {}}


def test_both_days_belong_to_the_time_asked_for(alice: User, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store.tables import Attempt

    job_id = run(alice, driver, node, 0)

    def ended(text: str) -> None:
        at = dt.datetime.fromisoformat(f"{text}+00:00").timestamp()

        def work(session: Any) -> None:
            session.get_one(Attempt, (job_id, 1)).ended_at = at

        transact(work)

    for moment in ("2020-02-28T00:00:00", "2020-02-29T23:59:59.9"):
        ended(moment)
        assert alice.name in usage(alice, "2020-02-28", "2020-02-29")["users"]
        assert usage(alice, "2020-03-01", "9999-12-31")["users"] == {}
        assert usage(alice, "0001-01-01", "2020-02-27")["users"] == {}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "Start date must be provided"),
        ("end=2020-01-01", "Start date must be provided"),
        ("start=2020-01-01", "End date must be provided"),
        ("start=2020-1-1&end=2020-01-01", "start: must be a date in the form YYYY-MM-DD"),
        ("start=2020-01-01&end=2020-02-30", "end: must be a date in the form YYYY-MM-DD"),
        ("start=2020-01-01&end=20200102", "end: must be a date in the form YYYY-MM-DD"),
        ("start=2020-01-02&end=2020-01-01", "end: must not be before start"),
    ],
)
def test_a_time_that_is_none_is_refused(alice: User, query: str, sentence: str) -> None:
    answer = alice.get(f"/accounting?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
