"""Airflow tells the truth: what the run of a job looks like there, for each way in which a job can go.

The rows are those of the project's table of cases; "by hand" means what a user can do in Airflow's own pages, which
call the same routes as these tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.stacks import Stack, until

_SHORT = 90.0


class Airflow:
    """Airflow's own REST interface, as its pages use it."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def run_of(self, job: int) -> str:
        """The run of a job, found as a user finds it: by its readable name."""

        def ask() -> str:
            answer = self.http.get(
                "/api/v2/dags/prominence_job/dagRuns", params={"order_by": "-run_after", "limit": 100}
            ).json()
            ids = [str(run["dag_run_id"]) for run in answer["dag_runs"]]
            return next((run for run in ids if run.split(".")[0] == f"job-{job}"), "")

        return until(ask, 10, what=f"the run of job {job}")

    def run(self, run_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v2/dags/prominence_job/dagRuns/{run_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, run_id: str, seconds: float = _SHORT) -> str:
        """Wait for the run's end; its state then."""

        def ask() -> str:
            state = str(self.run(run_id)["state"])
            return state if state in ("success", "failed") else ""

        return until(ask, seconds, 0.3, f"run {run_id} ends: {self.tasks(run_id)}")

    def tasks(self, run_id: str) -> dict[str, str | None]:
        """The states of the run's tasks."""
        answer = self.http.get(f"/api/v2/dags/prominence_job/dagRuns/{run_id}/taskInstances")
        answer.raise_for_status()
        return {ti["task_id"]: ti["state"] for ti in answer.json()["task_instances"]}

    def tries(self, run_id: str, task: str) -> int:
        answer = self.http.get(f"/api/v2/dags/prominence_job/dagRuns/{run_id}/taskInstances/{task}/tries")
        answer.raise_for_status()
        return len(answer.json()["task_instances"])

    def until_task(self, run_id: str, task: str, state: str) -> None:
        until(lambda: self.tasks(run_id).get(task) == state, 60, 0.2, f"{task} of {run_id} is {state}")

    def fail_run(self, run_id: str) -> None:
        answer = self.http.patch(f"/api/v2/dags/prominence_job/dagRuns/{run_id}", json={"state": "failed"})
        assert answer.status_code == 200, answer.text

    def fail_task(self, run_id: str, task: str) -> None:
        answer = self.http.patch(
            f"/api/v2/dags/prominence_job/dagRuns/{run_id}/taskInstances/{task}",
            json={"new_state": "failed", "include_downstream": False},
        )
        assert answer.status_code == 200, answer.text

    def trigger(self, conf: dict[str, Any]) -> httpx.Response:
        return self.http.post("/api/v2/dags/prominence_job/dagRuns", json={"logical_date": None, "conf": conf})

    def log(self, run_id: str, task: str) -> str:
        answer = self.http.get(
            f"/api/v2/dags/prominence_job/dagRuns/{run_id}/taskInstances/{task}/logs/1", params={"full_content": True}
        )
        answer.raise_for_status()
        return "\n".join(str(line.get("event", line)) for line in answer.json()["content"] if isinstance(line, dict))

    def result(self, run_id: str, task: str) -> dict[str, Any]:
        answer = self.http.get(
            f"/api/v2/dags/prominence_job/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value",
            params={"deserialize": False, "stringify": False},
        )
        answer.raise_for_status()
        value = answer.json()["value"]
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return found


@pytest.fixture
def airflow(stack: Stack) -> Iterator[Airflow]:
    with stack.airflow_client() as http:
        yield Airflow(http)


def _document(stack: Stack, cmd: str = "echo hello", **more: Any) -> dict[str, Any]:
    return {
        "name": "truth",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": cmd}],
        **more,
    }


_ALL_FINE = dict.fromkeys(("begin", "provision", "stage_in", "run", "stage_out", "release", "outcome"), "success")


def test_all_fine(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack))
    run = airflow.run_of(job)
    assert airflow.ended(run) == "success"
    assert airflow.tasks(run) == _ALL_FINE
    assert stack.wait(job)["status"] == "completed"
    result = airflow.result(run, "run")
    assert (result["job"], result["status"], result["exit_codes"], result["node_success"]) == (
        job,
        "completed",
        [0],
        True,
    )


def test_exit_1_is_completed_and_fails_the_run(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack, "sh -c 'echo boom >&2; exit 3'"))
    run = airflow.run_of(job)
    assert airflow.ended(run) == "failed"
    assert airflow.tasks(run) == _ALL_FINE | {"run": "failed", "outcome": "failed"}
    ended = stack.wait(job)
    assert ended["status"] == "completed"
    assert ended["execution"]["tasks"][0]["exitCode"] == 3
    assert airflow.result(run, "run")["exit_codes"] == [3]


def test_exit_1_that_counts_as_success(stack: Stack, airflow: Airflow) -> None:
    policies = {"reportJobSuccessOnTaskFailure": True}
    job = stack.submit(_document(stack, "sh -c 'exit 3'", policies=policies))
    assert airflow.ended(airflow.run_of(job)) == "success"
    assert stack.wait(job)["status"] == "completed"


def test_an_image_that_cannot_be_pulled_fails_stage_in(stack: Stack, airflow: Airflow) -> None:
    document = _document(stack)
    document["tasks"][0]["image"] = "127.0.0.1:9/no/such-image:latest"
    job = stack.submit(document)
    run = airflow.run_of(job)
    assert airflow.ended(run) == "failed"
    assert airflow.tasks(run) == _ALL_FINE | {
        "stage_in": "failed",
        "run": "upstream_failed",
        "stage_out": "skipped",
        "outcome": "failed",
    }
    assert stack.wait(job)["status"] == "failed"


def test_walltime_fails_the_run(stack: Stack, airflow: Airflow) -> None:
    document = _document(stack, "sleep 300")
    document["resources"]["walltime"] = 1
    job = stack.submit(document)
    run = airflow.run_of(job)
    assert airflow.ended(run, 150) == "failed"
    states = airflow.tasks(run)
    assert (states["stage_in"], states["run"], states["release"]) == ("success", "failed", "success")
    assert stack.wait(job)["status"] == "killed"


def test_delete_while_it_waits(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_waiting(stack))
    run = airflow.run_of(job)
    airflow.until_task(run, "provision", "deferred")
    _delete(stack, job)
    assert airflow.ended(run) == "failed"
    assert airflow.tasks(run) == _ALL_FINE | {
        "provision": "failed",
        "stage_in": "upstream_failed",
        "run": "upstream_failed",
        "stage_out": "skipped",
        "outcome": "failed",
    }
    assert stack.describe(job)["status"] == "deleted"


def test_delete_while_it_runs(stack: Stack, airflow: Airflow) -> None:
    job, run = _running(stack, airflow)
    _delete(stack, job)
    assert airflow.ended(run) == "failed"
    states = airflow.tasks(run)
    assert (states["run"], states["release"], states["outcome"]) == ("failed", "success", "failed")
    assert stack.describe(job)["status"] == "deleted"
    assert airflow.tries(run, "release") == 1


def test_the_run_is_failed_by_hand_while_the_job_waits(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_waiting(stack))
    run = airflow.run_of(job)
    airflow.until_task(run, "provision", "deferred")
    airflow.fail_run(run)
    assert stack.wait(job, seconds=_SHORT)["status"] == "deleted"
    assert airflow.ended(run) == "failed"


def test_the_run_is_failed_by_hand_while_the_job_runs(stack: Stack, airflow: Airflow) -> None:
    job, run = _running(stack, airflow)
    airflow.fail_run(run)
    assert stack.wait(job, seconds=30)["status"] == "deleted"
    assert airflow.ended(run) == "failed"
    states = airflow.tasks(run)
    assert (states["run"], states["release"], states["outcome"]) == ("failed", "success", "failed")
    assert airflow.tries(run, "release") == 1


def test_the_task_run_alone_is_failed_by_hand(stack: Stack, airflow: Airflow) -> None:
    job, run = _running(stack, airflow)
    airflow.fail_task(run, "run")
    assert stack.wait(job, seconds=30)["status"] == "deleted"
    assert airflow.ended(run) == "failed"
    states = airflow.tasks(run)
    assert (states["run"], states["release"], states["outcome"]) == ("failed", "success", "failed")
    assert airflow.tries(run, "release") == 1


def test_the_run_is_failed_by_hand_before_anything_started(stack: Stack, airflow: Airflow) -> None:
    with stack.paused("scheduler"):
        job = stack.submit(_document(stack, "sleep 300"))
        run = airflow.run_of(job)
        airflow.fail_run(run)
    ended = stack.wait(job, seconds=150)
    assert ended["status"] == "deleted"
    assert airflow.ended(run)


def test_the_trigger_form(stack: Stack, airflow: Airflow) -> None:
    """Started in Airflow with a document: the job is the user's who pressed the button."""
    started = airflow.trigger({"job": _document(stack, name="from-the-form")})
    assert started.status_code == 200, started.text
    run = str(started.json()["dag_run_id"])
    assert airflow.ended(run) == "success"
    assert airflow.result(run, "provision")["name"] == "from-the-form"
    [(owner, status)] = stack.psql("SELECT owner, status FROM prominence_job WHERE run_id = %s", run)
    assert (owner, status) == (stack.env["AIRFLOW_USER"], "completed")


def test_the_trigger_form_refuses_a_bad_document(stack: Stack, airflow: Airflow) -> None:
    refused = airflow.trigger({"job": {**_document(stack), "resuorces": {}}})
    assert refused.status_code == 400
    assert "resuorces" in refused.text


def test_a_run_without_a_document_fails_and_says_why(stack: Stack, airflow: Airflow) -> None:
    run = str(airflow.trigger({}).json()["dag_run_id"])
    assert airflow.ended(run) == "failed"
    assert airflow.tasks(run)["provision"] == "failed"
    assert "job" in airflow.result(run, "provision")["message"]


def test_a_job_number_typed_into_the_form_is_not_believed(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack, "sleep 20"))
    run = str(airflow.trigger({"job_id": job}).json()["dag_run_id"])
    assert airflow.ended(run) == "failed"
    assert stack.describe(job)["status"] in ("pending", "running")
    _delete(stack, job)


def test_another_attempt_is_driven_on_by_the_same_run(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack, "sh -c 'exit 1'", policies={"maximumRetries": 1}))
    run = airflow.run_of(job)
    assert airflow.ended(run) == "failed"
    assert airflow.result(run, "run")["attempt"] == 2
    ended = stack.wait(job)
    assert (ended["status"], ended["execution"]["retries"]) == ("completed", 1)


def test_the_logs_tell_the_story(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack, "sh -c 'sleep 2; echo boom; exit 7'"))
    run = airflow.run_of(job)
    airflow.ended(run)
    assert f"Job {job} (truth)" in airflow.log(run, "provision")
    assert "Placed at" in airflow.log(run, "provision")
    told = airflow.log(run, "run")
    assert stack.image in told
    assert "exit code 7" in told
    assert "boom" in told


def test_every_task_links_to_the_job(stack: Stack, airflow: Airflow) -> None:
    job = stack.submit(_document(stack))
    run = airflow.run_of(job)
    links = airflow.http.get(f"/api/v2/dags/prominence_job/dagRuns/{run}/taskInstances/run/links").json()
    assert links["extra_links"]["Job"] == f"{stack.url}/jobs/{job}"


def _waiting(stack: Stack) -> dict[str, Any]:
    """A job that will wait: it wants all there is, and somebody else has some of it."""
    if not stack.psql("SELECT 1 FROM prominence_job WHERE name = 'occupant' AND status = 'running'"):
        occupant = stack.submit(_document(stack, "sleep 240", name="occupant"))
        stack.wait(occupant, "running")
    [(cpus,)] = stack.psql("SELECT max(cpus) FROM prominence_node")
    document = _document(stack)
    document["resources"]["cpus"] = cpus
    return document


@pytest.fixture(scope="module", autouse=True)
def _no_occupant_stays(stack: Stack) -> Iterator[None]:
    yield
    for (job,) in stack.psql("SELECT id FROM prominence_job WHERE name = 'occupant' AND status <> 'completed'"):
        with stack.client() as http:
            http.delete(f"/jobs/{job}")


def _running(stack: Stack, airflow: Airflow) -> tuple[int, str]:
    job = stack.submit(_document(stack, "sleep 300"))
    run = airflow.run_of(job)
    stack.wait(job, "running")
    airflow.until_task(run, "run", "deferred")
    # The trigger has to have found its job, or its on_kill has nothing to tell.
    time.sleep(2)
    return job, run


def _delete(stack: Stack, job: int) -> None:
    with stack.client() as http:
        answer = http.delete(f"/jobs/{job}")
    assert answer.status_code == 200, answer.text
