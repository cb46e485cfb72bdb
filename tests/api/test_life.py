"""A job's life through the internal routes: phases, ends, attempts, fences, output, queue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import User
from tests.api.node import BASE, Driver, PretendNode, PretendRunner, driver_headers


def soon(check: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for what an API server does by itself as soon as a transaction has asked for it."""
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.02)


def started(alice: User, driver: Driver, node: PretendNode, **changes: Any) -> tuple[int, PretendRunner]:
    job_id = alice.submit(**changes)
    assert driver.claim(job_id)["phase"] == "ready"
    return job_id, node.take()


def test_the_assignment_holds_what_the_agent_needs(alice: User, driver: Driver, node: PretendNode) -> None:
    task = {
        "image": "busybox",
        "runtime": "udocker",
        "cmd": "echo 'a b' $PROMINENCE_JOB_ID {{ x }} $(id)",
        "env": {"N": 3},
        "workdir": "sub",
    }
    content = {"filename": "a.txt", "content": "aGk=", "executable": True}
    job_id, runner = started(
        alice,
        driver,
        node,
        tasks=[task],
        inputs=[content],
        resources={"cpus": 2, "memory": 1.5, "disk": 3, "walltime": 5},
        policies={"maximumTaskRetries": 2, "ignoreTaskFailures": True},
    )
    given = runner.assignment
    assert given["tasks"][0]["argv"] == ["echo", "a b", str(job_id), "{{", "x", "}}", "$(id)"]
    assert given["tasks"][0]["env"] == {"N": "3"}
    assert given["tasks"][0]["workdir"] == "sub"
    assert given["inputs"] == [content]
    assert given["resources"] == {"cpus": 2, "memory_mb": 1536, "disk_mb": 3072, "walltime_s": 300}
    assert (given["task_retries"], given["ignore_task_failures"]) == (2, True)
    assert given["env"]["PROMINENCE_CPUS"] == "2"
    assert given["env"]["PROMINENCE_MEMORY"] == "1.5"
    assert given["env"]["PROMINENCE_JOB_ID"] == str(job_id)
    assert given["env"]["PROMINENCE_URL"].endswith("/api/v1")
    assert given["addresses"] == {"private": False, "loopback": False}


WEBDAV = {"url": "https://dav.example/a", "username": "cy", "password": "s3cr3t-passw0rd"}
B2DROP = {"app-username": "cy", "app-password": "s3cr3t-passw0rd"}
ONEDATA = {"provider": "p.example", "token": "s3cr3t-t0ken", "options": "--space Mine"}


@pytest.mark.parametrize(
    ("kind", "account", "server"),
    [
        ("webdav", WEBDAV, {}),
        ("b2drop", B2DROP, {"url": "https://b2drop.eudat.eu/remote.php/webdav"}),
        ("onedata", ONEDATA, {}),
    ],
)
def test_storage_reaches_the_agent_with_its_secrets_and_nobody_else(
    database: Any, alice: User, driver: Driver, node: PretendNode, kind: str, account: dict[str, str], server: Any
) -> None:
    import sqlalchemy as sa

    job_id, runner = started(alice, driver, node, storage={"type": kind, "mountpoint": "/data//x/", kind: account})
    assert runner.assignment["storage"] == {"type": kind, "mountpoint": "/data/x", kind: {**account, **server}}
    shown = {key: value if key in ("url", "provider", "options") else "***" for key, value in account.items()}
    assert alice.describe(job_id)["storage"] == {"type": kind, "mountpoint": "/data//x/", kind: shown}
    assert "s3cr3t" not in alice.get("/jobs").text
    with database.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT t::text FROM "{name}" t')).scalars().all()
            assert not any("s3cr3t" in row for row in rows), name


def test_a_job_without_storage_is_given_none(alice: User, driver: Driver, node: PretendNode) -> None:
    assert started(alice, driver, node)[1].assignment["storage"] is None


def test_the_assignment_says_which_addresses_the_nodes_site_allows(
    alice: User, driver: Driver, node: PretendNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_prominence.api.settings import settings

    monkeypatch.setenv("AIRFLOW__PROMINENCE__PRIVATE_NETWORK_SITES", f"elsewhere, {node.site}")
    monkeypatch.setenv("AIRFLOW__PROMINENCE__LOOPBACK_SITES", "elsewhere")
    settings.cache_clear()
    try:
        _, runner = started(alice, driver, node)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert runner.assignment["addresses"] == {"private": True, "loopback": False}


def test_phases_are_followed_and_shown(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    assert alice.describe(job_id)["status"] == "pending"
    runner.report("stage_in")
    assert driver.view(job_id)["phase"] == "staging_in"
    runner.report("running")
    shown = alice.describe(job_id)
    assert shown["status"] == "running"
    assert shown["events"]["startTime"] >= shown["events"]["createTime"]
    assert shown["execution"]["site"] == node.site
    runner.report("stage_out")
    assert (driver.view(job_id)["phase"], alice.describe(job_id)["status"]) == ("staging_out", "running")
    runner.report("end", status="completed", reason="", node_success=True, execution={"tasks": [{"exitCode": 0}]})
    view = driver.view(job_id)
    assert (view["phase"], view["status"], view["node_success"], view["released"]) == ("done", "completed", True, True)
    shown = alice.describe(job_id)
    assert shown["execution"]["tasks"] == [{"exitCode": 0}]
    assert shown["execution"]["provisionedResources"] == {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}


def test_the_story_is_told_in_plain_lines(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    runner.run(exit_code=3)
    story = [event["message"] for event in driver.view(job_id)["events"]]
    told = "\n".join(story)
    for words in (f"site {node.site}", "busybox pulled in 0.5 s", "exit code 3", "Last lines of output:\nbye"):
        assert words in told


def test_exit_code_not_zero_is_completed_without_node_success(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    runner.run(exit_code=1)
    view = driver.view(job_id)
    assert (view["status"], view["node_success"]) == ("completed", False)


def test_report_success_on_task_failure_is_node_success(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node, policies={"reportJobSuccessOnTaskFailure": True})
    runner.run(exit_code=1)
    assert driver.view(job_id)["node_success"] is True


@pytest.mark.parametrize("end", [("failed", "Container image pull failed"), ("completed", "")])
def test_retries_make_new_attempts_until_used_up(
    alice: User, driver: Driver, node: PretendNode, end: tuple[str, str]
) -> None:
    status, reason = end
    job_id, runner = started(alice, driver, node, policies={"maximumRetries": 1})
    runner.report("running")
    runner.report("end", status=status, reason=reason, node_success=False, execution={"tasks": [{"exitCode": 7}]})
    view = driver.view(job_id)
    assert (view["attempt"], view["status"]) == (2, "pending")
    # a pass of the placer's own may have come between
    assert view["phase"] in {"queued", "ready"}
    driver.claim(job_id)
    del node.held[runner.lease]
    again = node.take()
    assert again.assignment["attempt"] == 2
    again.report("end", status=status, reason=reason, node_success=False, execution={"tasks": [{"exitCode": 8}]})
    shown = alice.describe(job_id)
    assert (shown["status"], shown.get("statusReason", "")) == (status, reason)
    assert shown["execution"]["retries"] == 1
    assert [attempt["exitCodes"] for attempt in shown["execution"]["attempts"]] == [[7], [8]]


@pytest.mark.parametrize("status", ["killed", "completed"])
def test_what_was_killed_or_went_well_is_not_retried(
    alice: User, driver: Driver, node: PretendNode, status: str
) -> None:
    job_id, runner = started(alice, driver, node, policies={"maximumRetries": 3})
    runner.report("end", status=status, reason="", node_success=status == "completed", execution={})
    assert driver.view(job_id)["phase"] == "done"


def test_a_report_counts_once_and_only_in_order(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    first, second, third = runner.made("stage_in"), runner.made("running"), runner.made("log", message="once")
    assert runner.send(second).json()["seq"] == 0
    assert runner.send(first, second).json()["seq"] == 2
    assert runner.send(third).json()["seq"] == 3
    assert runner.send(third, first).json()["seq"] == 3
    assert [e["message"] for e in driver.view(job_id)["events"]].count("once") == 1


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("nonsense", {}),
        ("pulled", {"task": 0, "status": "completed"}),
        ("pulled", {"task": 7, "status": "completed", "seconds": 1}),
        ("task", {"task": 0, "exit_code": "0", "wall": 1}),
        ("task", {"task": True, "exit_code": 0, "wall": 1}),
        ("log", {"message": None}),
        ("end", {"status": "splendid"}),
        ("end", {"status": "completed", "execution": {"tasks": 3}}),
        ("end", {"status": "completed", "execution": {"tasks": [3]}}),
    ],
)
def test_a_report_that_makes_no_sense_is_refused_whole(
    alice: User, driver: Driver, node: PretendNode, kind: str, data: dict[str, Any]
) -> None:
    job_id, runner = started(alice, driver, node)
    bad = {"seq": 2, "time": time.time(), "kind": kind, "data": data}
    answer = runner.send(runner.made("stage_in"), bad)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("reports")
    assert driver.view(job_id)["phase"] == "ready"


def test_a_stale_attempts_report_is_refused(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node, policies={"maximumRetries": 1})
    node.post(f"/nodes/{node.id}/lost", {"boot": node.boot, "lease": runner.lease, "reason": "gone"})
    assert driver.view(job_id)["attempt"] == 2
    answer = runner.send(runner.made("end", status="completed", reason="", node_success=True, execution={}))
    assert answer.status_code == 409
    assert runner.write("stdout", 0, b"x").status_code == 409
    assert driver.claim(job_id)["phase"] == "ready"
    assert driver.view(job_id)["attempt"] == 2


def test_a_deleted_jobs_runner_is_told_to_stop_and_its_end_changes_nothing(
    alice: User, driver: Driver, node: PretendNode
) -> None:
    job_id, runner = started(alice, driver, node)
    runner.report("running")
    assert alice.delete(f"/jobs/{job_id}").status_code == 200
    assert node.poll()["stop"] == [{"lease": runner.lease, "why": "deleted", "grace_s": 2}]
    assert driver.view(job_id)["released"] is False
    assert runner.report("log", message="still here")["stop"] == "deleted"
    runner.report("end", status="completed", reason="", node_success=True, execution={})
    view = driver.view(job_id)
    assert (view["status"], view["reason"], view["released"]) == ("deleted", "Job deleted by user", True)
    node.held[runner.lease] = "ended"
    assert node.poll()["forget"] == [runner.lease]


def test_a_deleted_jobs_lease_comes_back_without_a_last_report(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    alice.delete(f"/jobs/{job_id}")
    node.held[runner.lease] = "ended"
    node.poll()
    assert driver.view(job_id)["released"] is True


def test_deleting_before_the_node_was_told_starts_nothing(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    alice.delete(f"/jobs/{job_id}")
    assert node.poll()["start"] == []
    assert driver.view(job_id)["released"] is True


def test_an_assignment_is_repeated_until_the_node_lists_it(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    first, second = node.poll()["start"], node.poll()["start"]
    assert [a["lease"] for a in first] == [a["lease"] for a in second]
    node.held[first[0]["lease"]] = "running"
    assert node.poll()["start"] == []


def test_a_node_that_restarted_must_register_again(http: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    answer = node.post(f"/nodes/{node.id}/poll", {"boot": "another", "leases": {}, "timeout": 0})
    assert answer.status_code == 409
    node.boot = "another"
    assert node.register() == node.id


def test_claims_wait_for_room_and_a_release_serves_the_next(alice: User, driver: Driver, node: PretendNode) -> None:
    whole = {"cpus": 4, "memory": 1, "disk": 1}
    _, runner = started(alice, driver, node, resources=whole)
    waiting = alice.submit(resources=whole)
    view = driver.claim(waiting)
    assert (view["phase"], view["reason"]) == ("queued", "No matching resources currently available")
    shown = alice.describe(waiting)
    assert (shown["status"], shown["statusReason"]) == ("pending", "No matching resources currently available")
    runner.run()
    soon(lambda: driver.view(waiting)["phase"] == "ready")


def test_a_submission_is_placed_without_waiting_for_its_trigger(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    soon(lambda: driver.view(job_id)["phase"] == "ready")
    node.take(job_id).run(exit_code=1)
    assert alice.describe(job_id)["status"] == "completed"
    again = alice.submit(policies={"maximumRetries": 1})
    soon(lambda: driver.view(again)["phase"] == "ready")
    node.take(again).run(exit_code=1)
    soon(lambda: (driver.view(again)["attempt"], driver.view(again)["phase"]) == (2, "ready"))


def test_a_job_that_no_node_could_ever_run_fails_at_once(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit(resources={"cpus": 500, "memory": 1, "disk": 1}, policies={"maximumRetries": 2})
    view = driver.claim(job_id)
    assert (view["phase"], view["status"], view["reason"]) == ("done", "failed", "No matching resources")


def test_a_paused_dags_jobs_are_not_claimed(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    import sqlalchemy as sa

    pause = sa.text("UPDATE dag SET is_paused = :paused WHERE dag_id = 'prominence_job'")
    with database.begin() as connection:
        connection.execute(pause, {"paused": True})
    try:
        job_id = alice.submit()
        assert driver.claim(job_id)["phase"] == "queued"
    finally:
        with database.begin() as connection:
            connection.execute(pause, {"paused": False})
    assert driver.claim(job_id)["phase"] == "ready"


def test_claiming_twice_grants_once(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    driver.claim(job_id)
    assert len(node.poll()["start"]) == 1


def test_burst_of_claims_gives_no_node_more_than_it_has(alice: User, driver: Driver, node: PretendNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ids = [alice.submit() for _ in range(12)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(driver.claim, ids))
    phases = [driver.view(job_id)["phase"] for job_id in ids]
    assert phases.count("ready") == 4
    assert phases.count("queued") == 8
    for job_id in ids:
        alice.delete(f"/jobs/{job_id}")


def test_output_is_kept_byte_for_byte(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    runner.report("running")
    data = os.urandom(200_000)
    position = 0
    while position < len(data):
        answer = runner.write("stdout", position, data[position : position + 65536])
        assert answer.status_code == 200
        position = answer.json()["offset"]
    assert alice.get(f"/jobs/{job_id}/stdout").content == data
    for offset in (1, 65535, 65536, 65537, 150_000, len(data) - 1, len(data), len(data) + 5):
        assert alice.get(f"/jobs/{job_id}/stdout?offset={offset}").content == data[offset:]
    assert alice.get(f"/jobs/{job_id}/stderr").content == b""
    assert alice.get(f"/jobs/{job_id}/stdout?node=1").json() == {"error": "stdout does not exist"}
    assert alice.get(f"/jobs/{job_id}/stdout?offset=-1").status_code == 400


def test_a_piece_at_another_offset_changes_nothing(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    assert runner.write("stdout", 0, b"abc").json()["offset"] == 3
    assert runner.write("stdout", 0, b"abc").json()["offset"] == 3
    assert runner.write("stdout", 7, b"xyz").json()["offset"] == 3
    assert runner.write("stdout", 3, b"def").json()["offset"] == 6
    assert alice.get(f"/jobs/{job_id}/stdout").content == b"abcdef"
    assert runner.write("nonsense", 0, b"x").status_code == 400
    assert runner.write("stdout", 6, b"x" * 65537).status_code == 413


def test_output_over_the_limit_is_cut_and_marked(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node)
    position, full = 0, False
    for _ in range(17):
        answer = runner.write("stdout", position, b"y" * 65536).json()
        position, full = answer["offset"], answer.get("full", False)
        if full:
            break
    assert (position, full) == (1024 * 1024, True)
    runner.write("stdout", position, b"more")
    content = alice.get(f"/jobs/{job_id}/stdout").content
    assert content.startswith(b"y" * 1024 * 1024)
    assert b"cut" in content[1024 * 1024 :]
    assert b"more" not in content


def test_watch_answers_when_a_job_changes(http: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job_id, runner = started(alice, driver, node)
    version = driver.view(job_id)["version"]
    body = {"holder": "h", "jobs": {str(job_id): version, "999999999": 1}, "timeout": 20}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: http.post(f"{BASE}/watch", json=body, headers=driver_headers()))
        time.sleep(0.5)
        assert not waiting.done()
        runner.report("stage_in")
        [changed] = waiting.result(timeout=5).json()["jobs"]
    assert (changed["id"], changed["phase"]) == (job_id, "staging_in")


def test_watch_answers_nothing_after_its_time(http: Any, alice: User, driver: Driver) -> None:
    job_id = alice.submit()
    version = driver.view(job_id)["version"]
    body = {"holder": "h", "jobs": {str(job_id): version}, "timeout": 0.2}
    assert http.post(f"{BASE}/watch", json=body, headers=driver_headers()).json() == {"jobs": []}


def test_a_drivers_new_watch_ends_its_old_one(http: Any, alice: User, driver: Driver) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job_id = alice.submit()
    version = driver.view(job_id)["version"]

    def watch(holder: str, timeout: float) -> Any:
        body = {"holder": holder, "jobs": {str(job_id): version}, "timeout": timeout}
        return http.post(f"{BASE}/watch", json=body, headers=driver_headers()).json()

    with ThreadPoolExecutor(2) as pool:
        old, other = pool.submit(watch, "one", 20), pool.submit(watch, "two", 3)
        time.sleep(0.5)
        assert watch("one", 0) == {"jobs": []}
        assert old.result(timeout=2) == {"jobs": []}
        assert not other.done()


def test_a_nodes_poll_wakes_for_a_new_assignment(alice: User, driver: Driver, node: PretendNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job_id = alice.submit()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.poll, 15)
        time.sleep(0.5)
        began = time.monotonic()
        driver.claim(job_id)
        [assignment] = waiting.result(timeout=10)["start"]
    assert assignment["job"] == job_id
    assert time.monotonic() - began < 5
