"""Clearing `stage_out` in Airflow: what was lost is there again, from what the node has kept, or it is told why not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx

from tests.integration.airflows import Airflow
from tests.integration.stacks import Stack, until

SCRIPT = 'sh -c "mkdir d; echo in > d/f; cat /proc/sys/kernel/random/uuid | tee a.txt"'
OUTPUTS = {"outputFiles": ["a.txt"], "outputDirs": ["d"]}
ALL_WELL = dict.fromkeys(("begin", "provision", "stage_in", "run", "stage_out", "release", "outcome"), "success")


def ended(stack: Stack, airflow: Airflow, **changes: Any) -> tuple[int, str, dict[str, Any]]:
    """A job that has come to its end, its run in Airflow, and its description."""
    task = {"image": stack.image, "runtime": "singularity", "cmd": SCRIPT}
    resources = {"cpus": 1, "memory": 1, "disk": 1}
    job = stack.submit({"name": "kept", "resources": resources, "tasks": [task], **OUTPUTS, **changes})
    run = airflow.run_of(job)
    airflow.ended(run)
    return job, run, stack.describe(job)


def objects(stack: Stack, job: int) -> list[Path]:
    """A job's objects in the stack's folder."""
    [(uid,)] = stack.psql("SELECT uid FROM prominence_job WHERE id = %s", job)
    return sorted(path for path in (stack.places.objects / "objects" / "scratch" / uid).rglob("*") if path.is_file())


def clear(airflow: Airflow, run: str) -> str:
    """Clear the run's stage_out as a user does; the run's state when all has come to its end again."""
    before = airflow.tries(run, "stage_out")
    airflow.clear(run, "stage_out")
    until(lambda: airflow.tries(run, "stage_out") > before, 60, what="another try of stage_out")
    return airflow.ended(run)


def lease_of(stack: Stack, job: int) -> str:
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s ORDER BY attempt DESC LIMIT 1", job)
    return str(lease)


def stable(described: dict[str, Any]) -> dict[str, Any]:
    """A description without the URLs, which are signed anew each time, and without what clearing adds."""
    copy: dict[str, Any] = json.loads(json.dumps(described))
    copy["execution"].pop("uploadedAgain", None)
    for item in [*copy["outputFiles"], *copy["outputDirs"]]:
        del item["url"]
    copy["outputDirs"] = [item["name"] for item in copy["outputDirs"]]  # an archive made anew may be a byte longer
    return copy


def test_an_output_that_was_lost_is_uploaded_again(stack: Stack, airflow: Airflow) -> None:
    job, run, before = ended(stack, airflow)
    assert before["status"] == "completed", before
    until = before["execution"]["retention"]["directory"]["until"]
    assert abs(until - time.time() - 3600) < 120
    [kept] = [path for path in objects(stack, job) if path.name == "a.txt"]
    content = kept.read_bytes()
    assert content == stack.stdout(job)
    for lost in objects(stack, job):
        lost.unlink()
    url = before["outputFiles"][0]["url"]
    assert httpx.get(url).status_code == 404
    assert clear(airflow, run) == "success"
    assert airflow.tasks(run) == ALL_WELL
    assert httpx.get(url).content == content
    assert [path.name for path in objects(stack, job)] == ["a.txt", "d.tgz"]
    log = airflow.log(run, "stage_out", 2)
    assert "Uploading output again, from node " in log
    assert "Output a.txt: 37 bytes stored as a.txt in " in log
    assert "Output d: 1 file packed in " in log
    assert f"The output of job {job} (kept) was uploaded again." in log
    # nothing ran again, and the job is what it was
    after = stack.describe(job)
    assert stable(after) == stable(before)
    [upload] = after["execution"]["uploadedAgain"]
    assert upload["status"] == "completed"
    assert stack.psql("SELECT attempt FROM prominence_attempt WHERE job_id = %s", job) == [(1,)]
    assert stack.stdout(job) == content
    # what Airflow clears with it tells what was, and nothing of the upload
    assert "again" not in airflow.log(run, "release", 2)


def test_an_output_that_could_not_be_stored_is_stored_later(stack: Stack, airflow: Airflow) -> None:
    scratch = stack.places.objects / "objects" / "scratch"
    moved = scratch.with_name("away")
    scratch.rename(moved)
    scratch.write_text("in the way")
    try:
        job, run, before = ended(stack, airflow)
    finally:
        scratch.unlink()
        moved.rename(scratch)
    assert (before["status"], before["statusReason"]) == ("failed", "Unable to stageout output to object storage")
    assert "with outputs that are not stored, goes at" in before["execution"]["retention"]["warning"]
    assert airflow.tasks(run)["stage_out"] == "failed"
    clear(airflow, run)
    tasks = airflow.tasks(run)
    assert (tasks["stage_out"], tasks["outcome"]) == ("success", "failed")
    after = stack.describe(job)
    # that it failed was told and acted upon, and stays so; what it has made is there
    assert (after["status"], after["statusReason"]) == (before["status"], before["statusReason"])
    assert "warning" not in after["execution"]["retention"]
    assert httpx.get(after["outputFiles"][0]["url"]).content == stack.stdout(job)


def test_a_triggerer_that_dies_while_it_is_uploaded_changes_nothing(stack: Stack, airflow: Airflow) -> None:
    job, run, _ = ended(stack, airflow)
    for lost in objects(stack, job):
        lost.unlink()
    root = stack.places.objects / "objects"
    moved = root.with_name("away")
    root.rename(moved)  # as a file system that is not mounted: the node tries again for a while
    orders = "SELECT state FROM prominence_command WHERE job_id = %s AND kind = 'stage_out'"
    try:
        airflow.clear(run, "stage_out")
        until(lambda: stack.psql(orders, job) == [("started",)], 60, what="the upload has begun")
        stack.kill("triggerer")
    finally:
        moved.rename(root)
    assert airflow.ended(run) == "success", airflow.log(run, "stage_out", 2)
    assert stack.psql(orders, job) == [("ended",)]
    assert [path.name for path in objects(stack, job)] == ["a.txt", "d.tgz"]
    log = airflow.log(run, "stage_out", 2)
    assert f"The output of job {job} (kept) was uploaded again." in log
    stack.steady()


def test_in_a_workflow_the_output_of_one_job_is_uploaded_again(stack: Stack, airflow: Airflow) -> None:
    task = {"image": stack.image, "runtime": "singularity", "cmd": SCRIPT}
    resources = {"cpus": 1, "memory": 1, "disk": 1}
    jobs = [{"name": name, "resources": resources, "tasks": [task], **OUTPUTS} for name in ("one", "two")]
    with stack.client() as client:
        answer = client.post("/workflows", json={"name": "pair", "jobs": jobs})
    assert answer.status_code == 201, answer.text
    found = "SELECT id, dag_id, run_id, group_id FROM prominence_job WHERE workflow_id = %s ORDER BY id"
    (one, dag_id, run_id, group), (two, *_) = stack.psql(found, answer.json()["id"])
    of_run = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"

    def state() -> str:
        return str(airflow.http.get(of_run).json()["state"])

    def tries() -> int:
        return len(airflow.http.get(f"{of_run}/taskInstances/{group}.stage_out/tries").json()["task_instances"])

    until(lambda: state() == "success", 120, 0.5, "the workflow ends")
    content = stack.stdout(one)
    for job in (one, two):
        for path in objects(stack, job):
            path.unlink()
    body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True}
    cleared = airflow.http.post(
        f"/api/v2/dags/{dag_id}/clearTaskInstances", json={**body, "task_ids": [f"{group}.stage_out"]}
    )
    assert cleared.status_code == 200, cleared.text
    until(lambda: tries() == 2 and state() == "success", 120, 0.5, "stage_out has run again")
    assert {path.name: path.read_bytes() for path in objects(stack, one)}["a.txt"] == content
    assert objects(stack, two) == []
    assert [stack.describe(job)["status"] for job in (one, two)] == ["completed"] * 2
    assert stack.psql("SELECT attempt FROM prominence_attempt WHERE job_id = %s", one) == [(1,)]


def test_what_is_not_kept_any_more_is_told(stack: Stack, airflow: Airflow) -> None:
    job, run, _ = ended(stack, airflow)
    lease = lease_of(stack, job)
    record = stack.places.node / "leases" / lease / "kept"
    folder = stack.places.node / "jobs" / lease
    assert (folder / "home" / "a.txt").exists()
    # its hour is over while the node's service is away
    record.write_text(json.dumps({**json.loads(record.read_text()), "until": time.time()}))
    stack.restart("node")
    until(lambda: not folder.exists(), 30, what="the directory is gone")
    until(lambda: not record.parent.exists(), 30, what="the lease is forgotten")
    assert abs(stack.describe(job)["execution"]["retention"]["directory"]["removed"] - time.time()) < 60
    assert len(objects(stack, job)) == 2
    for path in objects(stack, job):
        path.unlink()
    assert clear(airflow, run) == "failed"
    assert airflow.tasks(run) == ALL_WELL | {"stage_out": "failed", "outcome": "failed"}
    log = airflow.log(run, "stage_out", 2)
    assert f"The output of job {job} (kept) was not uploaded again: the job's directory on node " in log
    assert " is gone since 20" in log
    assert "its task stage_out was cleared or ended by hand in Airflow and did not end well" in airflow.log(
        run, "outcome", 2
    )
    assert stack.describe(job)["status"] == "completed"
    assert objects(stack, job) == []
