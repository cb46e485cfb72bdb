"""Processes die at bad moments; jobs go on, end once, and nothing runs twice."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from airflow_prominence.standalone import settings
from tests.integration.stacks import Stack, until
from tests.survival.witness import Witness, build_witness_image

CONTROLLERS = ("triggerer", "scheduler", "api-server", "postgres")


@pytest.fixture(scope="module")
def witness(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    build_witness_image(stack.places.images / "witness.tar")
    watching = Witness(tmp_path_factory.mktemp("witness") / "book")
    yield watching
    watching.close()


@pytest.fixture(autouse=True)
def whole_again(stack: Stack) -> Iterator[None]:
    """Each test gets a stack that serves, and leaves one."""
    until(stack.answers, 90, what="the API answers")
    stack.steady(3)
    yield
    until(stack.answers, 90, what="the API answers")


def submit_in_any_weather(stack: Stack, document: dict[str, Any]) -> int:
    """POST until it is accepted; the Idempotency-Key makes that safe when an answer was lost."""
    key = uuid.uuid4().hex

    def attempt() -> int | None:
        try:
            with stack.client() as client:
                answer = client.post("/jobs", json=document, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return None
        return int(answer.json()["id"]) if answer.status_code == 201 else None

    found = until(attempt, 90, 0.2, "the job is accepted")
    assert found is not None
    return found


def wait_in_any_weather(stack: Stack, job_id: int, seconds: float = 120) -> dict[str, Any]:
    """Wait for a job's end though the API may be away for a while."""

    def ended() -> dict[str, Any] | None:
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            described = stack.describe(job_id)
            if described["status"] in ("completed", "failed", "killed", "deleted"):
                return described
        return None

    found = until(ended, seconds, 0.3, f"job {job_id} ends")
    assert found is not None
    return found


def run_state(stack: Stack, job_id: int) -> str | None:
    rows = stack.psql("SELECT state FROM dag_run WHERE run_id LIKE %s", f"job-{job_id}.%")
    return rows[0][0] if rows else None


def assert_ran_once(stack: Stack, witness: Witness, job_id: int, lines: int) -> None:
    """The job completed, was heard once, its output is whole, its end was told once and its run is a success."""
    described = wait_in_any_weather(stack, job_id)
    assert described["status"] == "completed", described
    heard = witness.heard()
    assert (heard[f"start {job_id}"], heard[f"end {job_id}"]) == (1, 1)
    assert described["execution"]["tasks"][0]["exitCode"] == 0
    whole = b"".join(b"line %d\n" % i for i in range(1, lines + 1))
    until(lambda: stack.stdout(job_id) == whole, 20, what="the output is whole")
    ends = stack.psql("SELECT count(*) FROM prominence_event WHERE job_id = %s AND kind = 'ended'", job_id)
    assert ends == [(1,)]
    until(lambda: run_state(stack, job_id) == "success", 90, what=f"the run of job {job_id} is a success")


@pytest.mark.parametrize("part", CONTROLLERS)
def test_a_running_job_outlives_every_controller(stack: Stack, witness: Witness, part: str) -> None:
    job_id = stack.submit(witness.job(6))
    stack.wait(job_id, "running")
    stack.restart(part)
    assert_ran_once(stack, witness, job_id, 6)


@pytest.mark.parametrize("parts", [("scheduler", "triggerer"), ("api-server",)])
def test_killed_between_the_commit_and_the_start(stack: Stack, witness: Witness, parts: tuple[str, ...]) -> None:
    job_id = stack.submit(witness.job(1))
    for part in parts:
        stack.kill(part)
    assert_ran_once(stack, witness, job_id, 1)


class Striker(threading.Thread):
    """Kills parts right after the k-th change of any job was committed, as PostgreSQL tells it."""

    def __init__(self, stack: Stack, parts: tuple[str, ...], change: int) -> None:
        super().__init__(daemon=True)
        self._stack, self._parts, self._change = stack, parts, change
        self._connection: Any = psycopg2.connect(settings.database_url(stack.ports, stack.secrets, "postgresql"))
        self._connection.autocommit = True
        self._connection.cursor().execute("LISTEN prominence_job")
        self.struck = False

    def run(self) -> None:
        deadline = time.monotonic() + 60
        heard = 0
        with contextlib.closing(self._connection):
            while time.monotonic() < deadline:
                select.select([self._connection], [], [], 1)
                self._connection.poll()
                heard += len(self._connection.notifies)
                self._connection.notifies.clear()
                if heard >= self._change:
                    for part in self._parts:
                        self._stack.kill(part)
                    self.struck = True
                    return


#: placed, staging in, pulled, running, task, staging out or end; later numbers strike after the end.
@pytest.mark.parametrize("change", range(1, 8))
def test_killed_at_every_state_transition(stack: Stack, witness: Witness, change: int) -> None:
    striker = Striker(stack, ("api-server", "triggerer"), change)
    striker.start()
    job_id = stack.submit(witness.job(1))
    assert_ran_once(stack, witness, job_id, 1)
    striker.join(70)


def test_killed_at_twenty_random_moments(stack: Stack, witness: Witness) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    jobs = []
    for _ in range(20):
        jobs.append(submit_in_any_weather(stack, witness.job(2)))
        time.sleep(dice.uniform(0, 7))
        part = dice.choice(CONTROLLERS)
        print(f"job {jobs[-1]}: {part}", flush=True)
        # It may be down already, for it went with the database: that is a strike, too.
        with contextlib.suppress(ProcessLookupError):
            stack.kill(part)
    for job_id in jobs:
        assert_ran_once(stack, witness, job_id, 2)


def test_a_woken_triggerer_kills_nothing_and_nothing_runs_twice(stack: Stack, witness: Witness) -> None:
    job_id = stack.submit(witness.job(45))
    stack.wait(job_id, "running")
    with second_triggerer(stack), stack.paused("triggerer"):
        mine = stack.psql("SELECT max(id) FROM job WHERE job_type = 'TriggererJob' AND state = 'running'")
        taken = "SELECT count(*) FROM trigger WHERE triggerer_id = %s AND kwargs LIKE '%%'"
        until(lambda: stack.psql(taken, mine[0][0])[0][0] > 0, 60, 0.5, "the other triggerer has the trigger")
    assert stack.describe(job_id)["status"] == "running"
    time.sleep(5)
    assert stack.describe(job_id)["status"] == "running"
    assert_ran_once(stack, witness, job_id, 45)


@contextlib.contextmanager
def second_triggerer(stack: Stack) -> Iterator[None]:
    """Another triggerer of the same deployment, ended with all it started."""
    from airflow_prominence.standalone.ports import choose

    port = choose({"trigger log": 28794})["trigger log"]
    environ = stack.environ | {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(port)}
    log = (stack.places.logs / "triggerer-2.log").open("ab")
    query = "SELECT count(*) FROM job WHERE job_type = 'TriggererJob' AND state = 'running'"
    before = stack.psql(query)[0][0]
    child = subprocess.Popen(
        [sys.executable, "-m", "airflow", "triggerer"],
        env=environ,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: stack.psql(query)[0][0] > before, 60, 0.5, "the second triggerer has begun")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(10)
        log.close()


def processes_of_lease(lease: str) -> list[int]:
    """Every live process whose environment or command line names the lease."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if lease.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_runner_guard_and_node_service_killed_is_an_eviction(stack: Stack, witness: Witness) -> None:
    job_id = stack.submit(witness.job(120))
    stack.wait(job_id, "running")
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s", job_id)
    until(lambda: witness.heard()[f"start {job_id}"] == 1, what="the job has said start")
    agents = [stack.leader("node").pid, *agents_of_lease(lease)]
    assert len(agents) >= 4, "the service, the runner, its reporter and the guard"
    for pid in agents:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    described = stack.wait(job_id, seconds=60)
    assert (described["status"], described["statusReason"]) == ("failed", "Job was evicted")
    until(lambda: not processes_of_lease(lease), 10, what="no process of the job is left")
    assert witness.heard()[f"end {job_id}"] == 0
    until(lambda: run_state(stack, job_id) == "failed", 60, what="the run has failed")


def agents_of_lease(lease: str) -> list[int]:
    """The runner, the reporter and the guards of a lease: the agent's own processes, not the job's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if command.startswith(b"prominence-agent") and lease.encode() in command:
                    found.append(int(entry.name))
    return found


def simple_job(stack: Stack, cmd: str, **changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": "simple",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": cmd}],
    }
    document.update(changes)
    return document


def test_ten_megabytes_without_a_newline_arrive_byte_for_byte(stack: Stack) -> None:
    script = 'head -c 10000000 /dev/urandom | tr -d "\\n" > x; cat x; sha256sum x >&2'
    job_id = stack.submit(simple_job(stack, f"sh -c '{script}'"))
    assert stack.wait(job_id)["status"] == "completed"
    import hashlib

    with stack.client() as client:
        said = client.get(f"/jobs/{job_id}/stderr").text.split()[0]
    assert hashlib.sha256(stack.stdout(job_id)).hexdigest() == said


def test_walltime_kills_what_ignores_signals_and_forks_away(stack: Stack, witness: Witness) -> None:
    inner = f'trap "" TERM INT HUP; {witness.says("alive")}; while :; do sleep 1; done'
    away = f"(setsid bash -c \\\"trap '' TERM; sleep 1000\\\" &) ; {inner}"
    document = witness.job(1, resources={"cpus": 1, "memory": 1, "disk": 1, "nodes": 1, "walltime": 1})
    document["tasks"][0]["cmd"] = f'bash -c "{away}"'.replace('trap "" TERM', "trap '' TERM")
    job_id = stack.submit(document)
    stack.wait(job_id, "running")
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s", job_id)
    assert processes_of_lease(lease)
    described = stack.wait(job_id, seconds=100)
    assert (described["status"], described["statusReason"]) == ("killed", "Walltime limit exceeded")
    until(lambda: not processes_of_lease(lease), 10, what="no process of the job is left")
    lasted = described["events"]["endTime"] - described["events"]["startTime"]
    assert 55 <= lasted <= 75


def test_delete_ends_the_container_within_five_seconds(stack: Stack, witness: Witness) -> None:
    job_id = stack.submit(witness.job(300))
    stack.wait(job_id, "running")
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s", job_id)
    began = time.monotonic()
    assert stack.run_cli("delete", str(job_id)).stdout.strip() == "Success"
    until(lambda: not processes_of_lease(lease), 5 - min(4, time.monotonic() - began), 0.1, "the container is gone")
    assert stack.describe(job_id)["status"] == "deleted"
    until(lambda: run_state(stack, job_id) == "failed", 60, what="the run shows it")
    until(lambda: not list((stack.places.node / "jobs").glob(f"*{lease}*")), 30, what="its folder is gone")
