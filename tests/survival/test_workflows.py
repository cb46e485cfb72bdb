"""A sweep under fire: every job runs exactly once to its end, what waits for all starts once, the counts are right."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.integration.stacks import Stack, until
from tests.survival.test_survival import CONTROLLERS, whole_again, witness
from tests.survival.witness import WITNESS_IMAGE, Witness

__all__ = ["whole_again", "witness"]

JOBS = 200


def sweep(witness: Witness, number: int) -> dict[str, Any]:
    """So many jobs that tell the witness when they start and end, and one that waits for them all."""

    def job(name: str) -> dict[str, Any]:
        script = f"{witness.says('start')}; {witness.says('end')}"
        task = {"image": WITNESS_IMAGE, "runtime": "singularity", "cmd": f"bash -c '{script}'"}
        return {"name": name, "resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task]}

    factory = {"name": "f", "type": "repeat", "jobs": ["one"], "number": number}
    return {
        "name": "under fire",
        "jobs": [job("one"), job("all")],
        "factories": [factory],
        "dependencies": {"one": ["all"]},
    }


def submit(stack: Stack, document: dict[str, Any]) -> int:
    with stack.client() as client:
        answer = client.post("/workflows", json=document)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])


def progress(stack: Stack, workflow: int) -> dict[str, Any]:
    """The workflow as its owner sees it, or nothing while the API is away."""
    with contextlib.suppress(httpx.HTTPError, ValueError), stack.client() as client:
        answer = client.get(f"/workflows/{workflow}")
        if answer.status_code == 200:
            return dict(answer.json()[0])
    return {}


def over(stack: Stack, workflow: int) -> int:
    counts = progress(stack, workflow).get("progress", {})
    return int(counts.get("done", 0)) + int(counts.get("failed", 0))


def assert_each_ran_once(stack: Stack, witness: Witness, workflow: int, number: int) -> None:
    until(lambda: progress(stack, workflow).get("status") == "completed", 300, 0.5, "the workflow completes")
    counts = {"total": number, "done": number, "failed": 0, "queued": 0, "waiting": 0}
    assert progress(stack, workflow)["progress"] == counts
    ids = [row[0] for row in stack.psql("SELECT id FROM prominence_job WHERE workflow_id = %s ORDER BY id", workflow)]
    assert len(ids) == number
    heard = witness.heard()
    assert {(heard[f"start {job}"], heard[f"end {job}"]) for job in ids} == {(1, 1)}
    ends = "SELECT count(*), count(DISTINCT job_id) FROM prominence_event WHERE kind = 'ended' AND job_id = ANY(%s)"
    assert stack.psql(ends, ids) == [(number, number)]
    # The one that waits for all has started after the last of them.
    last = "SELECT max(ended_at) FROM prominence_job WHERE workflow_id = %s AND member = 'one'"
    began = "SELECT started_at FROM prominence_job WHERE workflow_id = %s AND member = 'all'"
    assert stack.psql(last, workflow)[0][0] <= stack.psql(began, workflow)[0][0]
    run = "SELECT state FROM dag_run WHERE run_id = %s"
    until(lambda: stack.psql(run, f"workflow-{workflow}") == [("success",)], 120, 0.5, "its run is a success")


def test_each_process_is_killed_in_the_middle_of_a_sweep(stack: Stack, witness: Witness) -> None:
    workflow = submit(stack, sweep(witness, JOBS))
    parts = (*CONTROLLERS, "node")
    for number, part in enumerate(parts, 1):
        reached = JOBS * number // (len(parts) + 1)
        until(lambda reached=reached: over(stack, workflow) >= reached, 300, 0.2, f"{reached} jobs are over")
        stack.kill(part)
    assert_each_ran_once(stack, witness, workflow, JOBS + 1)


@contextlib.contextmanager
def second(stack: Stack, part: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another scheduler or triggerer beside the stack's own, in a session of its own."""
    command = [sys.executable, "-m", "airflow", part, "--skip-serve-logs"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=stack.environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def test_two_schedulers_and_two_triggerers_at_once(stack: Stack, witness: Witness, tmp_path: Path) -> None:
    alive = "state = 'running' AND latest_heartbeat > now() - interval '20 s'"
    beating = f"SELECT count(*) FROM job WHERE job_type = %s AND {alive}"
    logs = {part: tmp_path / f"{part}.log" for part in ("scheduler", "triggerer")}
    with second(stack, "scheduler", logs["scheduler"]), second(stack, "triggerer", logs["triggerer"]):
        for name in ("SchedulerJob", "TriggererJob"):
            until(lambda name=name: stack.psql(beating, name)[0][0] >= 2, 90, 0.5, f"there are two of {name}")
        workflow = submit(stack, sweep(witness, 40))
        until(lambda: over(stack, workflow) >= 10, 120, 0.2, "some jobs are over")
        stack.kill("triggerer")
        stack.kill("scheduler")
        assert_each_ran_once(stack, witness, workflow, 41)


def test_a_workflow_deleted_in_the_middle_leaves_no_process(stack: Stack, witness: Witness) -> None:
    workflow = submit(stack, sweep(witness, 60))
    until(lambda: over(stack, workflow) >= 5, 120, 0.2, "some jobs are over")
    with stack.client() as client:
        assert client.delete(f"/workflows/{workflow}").status_code == 200
    leases = (
        "SELECT count(*) FROM prominence_lease l JOIN prominence_job j ON j.id = l.job_id "
        "WHERE j.workflow_id = %s AND l.state <> 'ended'"
    )
    until(lambda: stack.psql(leases, workflow) == [(0,)], 30, 0.2, "all places are given back")
    assert progress(stack, workflow)["status"] == "deleted"
    before = witness.heard()
    time.sleep(3)
    assert witness.heard() == before
    run = "SELECT state FROM dag_run WHERE run_id = %s"
    until(lambda: stack.psql(run, f"workflow-{workflow}") == [("failed",)], 120, 0.5, "its run has failed")
