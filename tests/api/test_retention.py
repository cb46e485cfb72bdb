"""How long what finished jobs leave is kept, by settings: shown, warned of, removed, never too early."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode
from tests.api.test_letters import ASKED, box, empty_box, nobody_else_sends, server, with_address

DAV = {"url": "https://dav.example.org", "username": "u", "password": "p"}
DEFAULT = {"type": "webdav", "mountpoint": "/data", "webdav": DAV, "default": True}
DAY = 86400.0

__all__ = ["empty_box", "nobody_else_sends", "server"]


@pytest.fixture(autouse=True)
def nothing_else_is_due(database: sa.Engine) -> None:
    """Other tests' jobs are not this one's business."""
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM prominence_job WHERE phase = 'done'"))


@pytest.fixture
def keep(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change settings of retention for the test."""
    from airflow_prominence.api import mailer, retention
    from airflow_prominence.api.routes import data, jobs
    from airflow_prominence.api.settings import settings

    def change(**days: float) -> None:
        now = settings()
        changed = dataclasses.replace(now, kept=dataclasses.replace(now.kept, **days))
        for module in (mailer, retention, data, jobs):
            monkeypatch.setattr(module, "settings", lambda: changed)

    return change


def age(database: sa.Engine, job_id: int, days: float) -> None:
    """Let a finished job's end be so long ago."""
    moved = "ended_at = ended_at - :s, created_at = created_at - :s"
    with database.begin() as connection:
        connection.execute(
            sa.text(f"UPDATE prominence_job SET {moved}, started_at = started_at - :s WHERE id = :id"),
            {"s": days * DAY, "id": job_id},
        )


def age_warnings(database: sa.Engine, days: float) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE prominence_job SET warned_at = warned_at - :s"), {"s": days * DAY})


def count(database: sa.Engine, table: str, job_id: int) -> int:
    column = "id" if table == "job" else "job_id"
    with database.connect() as connection:
        query = sa.text(f"SELECT count(*) FROM prominence_{table} WHERE {column} = :id")
        return int(connection.execute(query, {"id": job_id}).scalar_one())


def uid(database: sa.Engine, job_id: int) -> str:
    with database.connect() as connection:
        found = connection.execute(sa.text("SELECT uid FROM prominence_job WHERE id = :id"), {"id": job_id})
        return str(found.scalar_one())


def finished(user: User, driver: Driver, node: PretendNode, **changes: Any) -> int:
    """A job that wrote something and is over."""
    job_id = user.submit(**changes)
    driver.claim(job_id)
    runner = node.take()
    assert runner.write("stdout", 0, b"what it said").status_code == 200
    runner.run()
    return job_id


def sweep(driver: Driver) -> dict[str, int]:
    answer = driver.post("/maintenance")
    assert answer.status_code == 200, answer.text
    return {what: number for what, number in answer.json().items() if number}


def retention_of(user: User, job_id: int) -> dict[str, Any]:
    found = user.describe(job_id)["execution"]["retention"]
    assert isinstance(found, dict)
    return found


def test_a_description_says_how_long_what_is_kept(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = finished(alice, driver, node)
    ended = alice.describe(job_id)["events"]["endTime"]
    shown = retention_of(alice, job_id)
    assert shown == {
        "stdout": {"until": pytest.approx(ended + 30 * DAY, abs=1)},
        "description": {"until": pytest.approx(ended + 365 * DAY, abs=1)},
    }
    assert "statusReason" not in alice.describe(job_id)
    active = alice.submit()
    assert "retention" not in alice.describe(active).get("execution", {})
    [detail] = alice.get("/jobs", params={"detail": "true", "id": str(job_id)}).json()
    assert detail["execution"]["retention"] == shown


def test_a_job_that_never_ran_keeps_only_its_description(alice: User) -> None:
    job_id = alice.submit()
    alice.delete(f"/jobs/{job_id}")
    assert set(retention_of(alice, job_id)) == {"description"}


def test_what_is_kept_for_ever_has_no_end(
    alice: User, driver: Driver, node: PretendNode, keep: Callable[..., None], database: sa.Engine
) -> None:
    keep(stdout_days=0, outputs_days=0, jobs_days=0)
    job_id = finished(alice, driver, node)
    age(database, job_id, 100_000)
    assert sweep(driver) == {}
    assert "retention" not in alice.describe(job_id)["execution"]
    assert alice.get(f"/jobs/{job_id}/stdout").text == "what it said"


def test_nothing_outlives_the_description(
    alice: User, driver: Driver, node: PretendNode, keep: Callable[..., None]
) -> None:
    keep(stdout_days=0, jobs_days=2)
    job_id = finished(alice, driver, node)
    shown = retention_of(alice, job_id)
    assert shown["stdout"] == shown["description"]


def test_stdout_goes_after_its_time_and_not_before(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    job_id = finished(alice, driver, node)
    age(database, job_id, 29.9)
    assert sweep(driver) == {}
    assert alice.get(f"/jobs/{job_id}/stdout").text == "what it said"
    age(database, job_id, 0.2)
    assert sweep(driver)["stdout_removed"] == 1
    assert count(database, "output", job_id) == 0
    assert alice.describe(job_id)["status"] == "completed"
    assert retention_of(alice, job_id)["stdout"] == {"removed": pytest.approx(time.time(), abs=5)}
    for stream in ("stdout", "stderr"):
        answer = alice.get(f"/jobs/{job_id}/{stream}")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"{stream} was removed on 20")
    assert "stdout_removed" not in sweep(driver)


def test_near_its_end_a_description_warns(alice: User, driver: Driver, node: PretendNode, database: sa.Engine) -> None:
    job_id = finished(alice, driver, node)
    age(database, job_id, 22.9)
    assert "warning" not in retention_of(alice, job_id)
    age(database, job_id, 0.2)
    day = time.strftime("%Y-%m-%d", time.gmtime(retention_of(alice, job_id)["stdout"]["until"]))
    warning = f"Standard output will be removed on {day}"
    assert retention_of(alice, job_id)["warning"] == warning
    assert alice.describe(job_id)["statusReason"] == warning


def test_a_reason_is_not_overwritten_by_a_warning(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    runner = node.take()
    runner.report("running")
    runner.report("end", status="killed", reason="Walltime limit exceeded", node_success=False)
    age(database, job_id, 25)
    assert "warning" in retention_of(alice, job_id)
    assert alice.describe(job_id)["statusReason"] == "Walltime limit exceeded"


def test_outputs_and_snapshots_go_from_the_object_store(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    from airflow_prominence.objects import object_store

    store = object_store()
    job_id, other = finished(alice, driver, node), finished(alice, driver, node)
    kept = []
    for number, job in ((1, job_id), (2, other)):
        folder = f"scratch/{uid(database, job)}"
        keys = [f"{folder}/out", f"{folder}/deep.tgz", f"snapshots/{uid(database, job)}/snapshot.tgz"]
        for key in keys:
            store.write(key, b"x" * number)
        kept.append(keys)
    age(database, job_id, 31)
    assert sweep(driver) == {"stdout_removed": 1, "outputs_removed": 1}
    assert [store.stat(key) for key in kept[0]] == [None] * 3
    assert all(store.stat(key) for key in kept[1]), "those of another job stay"


def test_a_store_that_does_not_answer_is_asked_again_and_blocks_nobody(
    alice: User,
    driver: Driver,
    node: PretendNode,
    database: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow_prominence.objects import LocalStore, StoreUnavailable

    bad, good = finished(alice, driver, node), finished(alice, driver, node)
    for job_id in (bad, good):
        age(database, job_id, 31)
    real, folder = LocalStore.delete_below, f"scratch/{uid(database, bad)}"

    def delete_below(store: LocalStore, prefix: str) -> None:
        if prefix == folder:
            raise StoreUnavailable("the store does not answer")
        real(store, prefix)

    with monkeypatch.context() as broken:
        broken.setattr(LocalStore, "delete_below", delete_below)
        assert sweep(driver) == {"stdout_removed": 2, "outputs_removed": 1}
    assert sweep(driver) == {"outputs_removed": 1}


def test_descriptions_go_with_all_that_is_left_but_their_usage_stays(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    from airflow_prominence.objects import object_store

    job_id = alice.submit(labels={"a": "b"})
    driver.claim(job_id)
    runner = node.take()
    runner.report("running")
    tasks = [{"exitCode": 0, "wallTimeUsage": 3600.0, "cpuTimeUsage": 1800.0}]
    runner.report("end", status="completed", reason="", node_success=True, execution={"tasks": tasks})
    key = f"scratch/{uid(database, job_id)}/out"
    object_store().write(key, b"x")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    period = {"start": today, "end": today}
    before = alice.get("/accounting", params=period).json()["usage"]
    assert before["users"] == {alice.name: {"cpuTime": 0.5, "wallTime": 1.0, "numberOfJobs": 1}}
    age(database, job_id, 366)
    assert sweep(driver)["jobs_forgotten"] == 1
    assert object_store().stat(key) is None
    for table in ("job", "attempt", "label", "lease", "event", "secret", "output"):
        assert count(database, table, job_id) == 0, table
    assert alice.get(f"/jobs/{job_id}").json() == []
    assert alice.get("/accounting", params=period).json()["usage"] == before


def test_group_usage_stays_too(http: Any, driver: Driver, node: PretendNode, database: sa.Engine) -> None:
    import uuid

    from airflow_prominence.api import usertokens

    group = f"group-{uuid.uuid4().hex[:6]}"
    members = [User(http, name, usertokens.issue(name, [group], days=1)[0]) for name in (f"a-{group}", f"b-{group}")]
    for member in members:
        age(database, finished(member, driver, node), 366)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    asked = {"start": today, "end": today, "by_group": "true", "show_all_users": "true"}
    before = members[0].get("/accounting", params=asked).json()["usage"]
    assert before["groups"][group]["numberOfJobs"] == 2
    assert set(before["users"]) == {member.name for member in members}
    assert sweep(driver)["jobs_forgotten"] == 2
    assert members[0].get("/accounting", params=asked).json()["usage"] == before


def test_nothing_of_an_active_job_is_touched(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    runner = node.take()
    runner.report("running")
    assert runner.write("stdout", 0, b"still here").status_code == 200
    with database.begin() as connection:
        old = sa.text("UPDATE prominence_job SET created_at = 0, started_at = 0 WHERE id = :id")
        connection.execute(old, {"id": job_id})
    assert sweep(driver) == {}
    assert alice.get(f"/jobs/{job_id}/stdout").text == "still here"


def test_a_job_cleared_between_the_look_and_the_removal_is_left_alone(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.api.settings import settings
    from airflow_prominence.store import retention, transitions

    job_id = finished(alice, driver, node)
    age(database, job_id, 400)
    keep_s, now = settings().kept, time.time()
    found = transact(lambda session: retention.due(session, keep_s, now, 10))
    assert job_id in found.stdout
    assert job_id in found.outputs
    assert job_id in found.jobs

    def clear(session: Any) -> None:
        job = transitions.lock_job(session, job_id)
        assert job is not None
        transitions.begin_again(session, job)

    transact(clear)
    touched: list[str] = []
    assert not transact(lambda session: retention.remove_stdout(session, job_id, keep_s, now))
    assert not transact(lambda session: retention.remove_outputs(session, job_id, keep_s, now, touched.append))
    assert not transact(lambda session: retention.forget_job(session, job_id, keep_s, now, touched.append))
    assert touched == []
    assert alice.get(f"/jobs/{job_id}/stdout").text == "what it said"


def test_a_job_begun_again_has_its_stdout_back(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import transitions

    job_id = finished(alice, driver, node)
    age(database, job_id, 31)
    sweep(driver)

    def clear(session: Any) -> None:
        job = transitions.lock_job(session, job_id)
        assert job is not None
        transitions.begin_again(session, job)

    transact(clear)
    driver.claim(job_id)
    runner = node.take()
    runner.report("running")
    assert runner.write("stdout", 0, b"said again").status_code == 200
    assert alice.get(f"/jobs/{job_id}/stdout").text == "said again"


def test_a_round_is_bounded(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_prominence.api import retention

    monkeypatch.setattr(retention, "_JOBS_A_ROUND", 2)
    for days in (31, 33, 32):
        age(database, finished(alice, driver, node), days)
    assert sweep(driver)["stdout_removed"] == 2
    assert sweep(driver)["stdout_removed"] == 1
    monkeypatch.setattr(retention, "ROUND_S", -1)
    age(database, finished(alice, driver, node), 31)
    assert sweep(driver) == {}


def test_a_job_in_the_queue_leaves_it_by_itself(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    job_id = finished(alice, driver, node, policies={"leaveInQueue": True})
    age(database, job_id, 89)
    sweep(driver)
    assert [item["id"] for item in alice.get("/jobs").json()] == [job_id]
    age(database, job_id, 2)
    assert sweep(driver)["jobs_left_queue"] == 1
    assert alice.get("/jobs").json() == []


def test_what_lies_on_its_users_storage_is_described_for_as_long_as_the_job(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    job_id = alice.submit(storage=DEFAULT, outputFiles=["a"])
    driver.claim(job_id)
    runner = node.take()
    runner.report("running")
    runner.report("output", name="a", asked="a", kind="file", file="a", size=3, sha256="0" * 64)
    runner.report("end", status="completed", reason="", node_success=True, execution={"tasks": []})
    described = alice.describe(job_id)["outputFiles"]
    assert described == [{"name": "a", "size": 3, "url": "", "path": f"prominence/{job_id}/a"}]
    age(database, job_id, 31)
    assert sweep(driver) == {"stdout_removed": 1, "outputs_removed": 1}
    assert alice.describe(job_id)["outputFiles"] == described
    assert "outputs" not in retention_of(alice, job_id)


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_who_asked_for_letters_is_warned_once_before_anything_goes(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    anna = with_address(http, "anna@example.org")
    jobs = [finished(anna, driver, node, notifications=ASKED, name=f"model {n}") for n in range(2)]
    silent = finished(anna, driver, node)
    for job_id in (*jobs, silent):
        age(database, job_id, 23.5)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM prominence_mail"))
    assert sweep(driver) == {"warnings_written": 1}
    [letter] = box(database)
    assert letter["recipient"] == "anna@example.org"
    assert letter["subject"] == "PROMINENCE: something of 2 jobs will be removed soon"
    for job_id, number in zip(jobs, range(2), strict=True):
        day = time.strftime("%Y-%m-%d", time.gmtime(retention_of(anna, job_id)["stdout"]["until"]))
        assert f"{job_id} model {number}: standard output on {day}, its description on 20" in letter["body"]
    assert f"  {silent}:" not in letter["body"]
    assert f"  {silent} " not in letter["body"]
    assert sweep(driver) == {}, "once"
    for job_id in (*jobs, silent):
        age(database, job_id, 7)
    assert sweep(driver)["stdout_removed"] == 1, "of whom no letter was asked; the others' seven days are not over"
    age_warnings(database, 7)
    assert sweep(driver)["stdout_removed"] == 2


def test_nobody_is_warned_of_what_is_not_removed(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine, keep: Callable[..., None]
) -> None:
    server()
    keep(stdout_days=0, outputs_days=10, jobs_days=0)
    anna = with_address(http, "anna@example.org")
    theirs = finished(anna, driver, node, notifications=ASKED, outputFiles=["a"], storage=DEFAULT)
    age(database, theirs, 9)
    assert sweep(driver) == {}
    ours = finished(anna, driver, node, notifications=ASKED, outputFiles=["a"], storage={**DEFAULT, "default": False})
    age(database, ours, 9)
    assert sweep(driver) == {"warnings_written": 1}


def test_nothing_goes_unwarned_when_a_setting_is_shortened(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine, keep: Callable[..., None]
) -> None:
    server()
    anna = with_address(http, "anna@example.org")
    job_id = finished(anna, driver, node, notifications=ASKED)
    age(database, job_id, 10)
    keep(stdout_days=4)
    assert sweep(driver) == {"warnings_written": 1}, "before its removal, which waits for two days"
    assert retention_of(anna, job_id)["stdout"]["until"] == pytest.approx(time.time() + 2 * DAY, abs=10)
    assert anna.get(f"/jobs/{job_id}/stdout").status_code == 200
    age_warnings(database, 2.01)
    assert sweep(driver)["stdout_removed"] == 1


def test_one_letter_a_day(server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine) -> None:
    server()
    anna = with_address(http, "anna@example.org")
    first, next_day, later = (finished(anna, driver, node, notifications=ASKED) for _ in range(3))
    age(database, first, 23.1)
    age(database, next_day, 22.5)
    age(database, later, 21)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM prominence_mail"))
    assert sweep(driver) == {"warnings_written": 1}
    [letter] = box(database)
    assert f"  {first} " in letter["body"]
    assert f"  {next_day} " in letter["body"], "what nears its end within a day is told of at once"
    assert f"  {later} " not in letter["body"]
    age(database, later, 2.5)
    assert sweep(driver) == {}, "who was warned today is not warned again"
    age_warnings(database, 1.01)
    assert sweep(driver) == {"warnings_written": 1}


def test_no_warnings_where_they_are_switched_off(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine, keep: Callable[..., None]
) -> None:
    server()
    keep(warn_days=0)
    anna = with_address(http, "anna@example.org")
    job_id = finished(anna, driver, node, notifications=ASKED)
    age(database, job_id, 29.9)
    assert sweep(driver) == {}
    assert "warning" not in retention_of(anna, job_id)
    age(database, job_id, 0.2)
    assert sweep(driver)["stdout_removed"] == 1


@pytest.mark.parametrize("days", ["-1", "nan", "inf"])
def test_a_setting_that_is_no_number_of_days_is_refused(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    from airflow_prominence import configuration

    monkeypatch.setenv("AIRFLOW__PROMINENCE__KEEP_JOBS_DAYS", days)
    with pytest.raises(ValueError, match="keep_jobs_days: must be a number of days"):
        configuration.days("keep_jobs_days", 1)
