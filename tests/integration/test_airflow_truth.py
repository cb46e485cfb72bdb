"""Airflow tells the truth: what the run of a job looks like there, for each way in which a job can go.

The rows are those of the project's table of cases; most are played all at once by the fixture ``rows``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.airflows import Airflow
from tests.integration.rows import Played, Row, Rows, document
from tests.integration.stacks import Stack, until

_ALL_FINE = dict.fromkeys(("begin", "provision", "stage_in", "run", "stage_out", "release", "outcome"), "success")
_NEVER_PLACED = _ALL_FINE | {
    "provision": "failed",
    "stage_in": "upstream_failed",
    "run": "upstream_failed",
    "stage_out": "skipped",
    "outcome": "failed",
}
_NEVER_RAN = _ALL_FINE | {"stage_in": "failed", "run": "upstream_failed", "stage_out": "skipped", "outcome": "failed"}
_RAN_BADLY = _ALL_FINE | {"run": "failed", "outcome": "failed"}
_STOPPED = _RAN_BADLY | {"stage_out": "skipped"}

TABLE = {
    "all fine": ("success", "completed", _ALL_FINE),
    "exit 3": ("failed", "completed", _RAN_BADLY),
    "exit 3 that counts as success": ("success", "completed", _ALL_FINE),
    "retried": ("failed", "completed", _RAN_BADLY),
    "no such image": ("failed", "failed", _NEVER_RAN),
    "no such node": ("failed", "failed", _NEVER_PLACED),
    "walltime": ("failed", "killed", _STOPPED),
    "deleted while waiting": ("failed", "deleted", _NEVER_PLACED),
    "deleted while running": ("failed", "deleted", _STOPPED),
    # By hand Airflow itself fails the task that goes on and skips the others, all but the teardowns.
    "run failed by hand while waiting": (
        "failed",
        "deleted",
        _ALL_FINE
        | {"provision": "failed", "stage_in": "skipped", "run": "skipped", "stage_out": "skipped", "outcome": "failed"},
    ),
    "run failed by hand while running": ("failed", "deleted", _STOPPED),
    "task run failed by hand": ("failed", "deleted", _STOPPED),
    "cleared after failure": ("success", "completed", _ALL_FINE),
    "cleared while running": ("failed", "deleted", _STOPPED),
    "cleared all": ("success", "completed", _ALL_FINE),
    "cleared stage_out": ("success", "completed", _ALL_FINE),
}


@pytest.mark.parametrize("name", TABLE)
def test_row(rows: Rows, name: str) -> None:
    played = rows[name]
    state, status, tasks = TABLE[name]
    assert (played.state, played.described["status"], played.tasks) == (state, status, tasks)
    assert played.airflow.tries(played.run, "release") == (2 if name.startswith("cleared") else 1)


def test_the_task_run_says_how_the_job_ended(rows: Rows) -> None:
    fine, bad = (rows[name].airflow.result(rows[name].run, "run") for name in ("all fine", "exit 3"))
    assert (fine["status"], fine["exit_codes"], fine["node_success"]) == ("completed", [0], True)
    assert (bad["status"], bad["exit_codes"], bad["node_success"]) == ("completed", [3], False)


def test_another_attempt_is_driven_on_by_the_same_run(rows: Rows) -> None:
    retried = rows["retried"]
    assert retried.airflow.result(retried.run, "run")["attempt"] == 2
    assert retried.described["execution"]["retries"] == 1


# -- clearing ----------------------------------------------------------------------------------------------------------


def _attempts(played: Played) -> list[tuple[int, str]]:
    attempts = played.described["execution"].get("attempts", [])
    return [(attempt["attempt"], attempt["status"]) for attempt in attempts]


def test_clearing_run_tries_the_job_again(rows: Rows) -> None:
    cleared = rows["cleared after failure"]
    assert cleared.seen["first"] == "failed"
    assert _attempts(cleared) == [(1, "completed"), (2, "completed")]
    assert [attempt["exitCodes"] for attempt in cleared.described["execution"]["attempts"]] == [[1], [0]]
    assert "Cleared in Airflow: trying again, attempt 2" in cleared.log("run", 2)
    assert "Task 0 ended with exit code 1" not in cleared.log("run", 2)


def test_clearing_the_whole_run_tries_the_job_again_once(rows: Rows) -> None:
    cleared = rows["cleared all"]
    assert cleared.seen["first"] == "success"
    assert _attempts(cleared) == [(1, "completed"), (2, "completed")]


def test_clearing_another_phase_answers_what_is_true(rows: Rows) -> None:
    cleared = rows["cleared stage_out"]
    assert cleared.airflow.tries(cleared.run, "stage_out") == 2
    assert _attempts(cleared) == []


def test_clearing_a_running_job_ends_its_containers_and_begins_again(rows: Rows, stack: Stack) -> None:
    cleared = rows["cleared while running"]
    assert cleared.seen["described"]["status"] == "running"
    assert _attempts(cleared) == [(1, "deleted"), (2, "deleted")]
    assert cleared.described["execution"]["attempts"][0]["statusReason"] == "Cleared in Airflow"
    leases = stack.psql("SELECT state FROM prominence_lease WHERE job_id = %s", cleared.job)
    assert leases == [("ended",), ("ended",)]


def test_of_all_these_jobs_nothing_runs_any_more(rows: Rows, stack: Stack) -> None:
    assert rows
    until(lambda: not stack.psql("SELECT 1 FROM prominence_lease WHERE state <> 'ended'"), 30)
    leases = {f"PROMINENCE_LEASE={lease}".encode() for (lease,) in stack.psql("SELECT id FROM prominence_lease")}
    assert leases
    until(lambda: not leases & set(_environments()), 10)


def _environments() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield from path.read_bytes().split(b"\0")


# -- moments that pass too quickly to be met but by holding a part of Airflow ------------------------------------------


def test_the_run_is_failed_by_hand_before_anything_started(stack: Stack, airflow: Airflow) -> None:
    with stack.paused("scheduler"):
        job = stack.submit(document(stack, Row("sleep 300")))
        run = airflow.run_of(job)
        airflow.fail_run(run)
    assert airflow.ended(run) == "failed"
    assert stack.describe(job)["status"] == "deleted"


def _held_at(stack: Stack, airflow: Airflow, task: str, before: str) -> tuple[int, str]:
    """A job that has ended, its run held in the task after ``before`` (the triggerer is paused by the caller)."""
    job = stack.submit(document(stack, Row("sleep 1")))
    run = airflow.run_of(job)
    state = "SELECT state FROM task_instance WHERE run_id = %s AND task_id = %s"
    until(lambda: stack.psql(state, run, before) == [("success",)], 60, 0.05, f"{before} of {run}")
    return job, run


@pytest.mark.parametrize(
    ("task", "before", "expected"),
    [("stage_out", "run", "failed"), ("release", "stage_out", "success")],
)
def test_the_run_is_failed_by_hand_when_the_job_has_ended(
    stack: Stack, airflow: Airflow, task: str, before: str, expected: str
) -> None:
    """In stage_out it fails; in release nothing is left to fail, and the job did complete."""
    job, run = _held_at(stack, airflow, task, before)
    with stack.paused("triggerer"):
        airflow.until_task(run, task, "deferred")
        airflow.fail_run(run)
    assert airflow.ended(run) == expected
    assert stack.describe(job)["status"] == "completed"
    states = airflow.tasks(run)
    assert states["release"] == "success"
    assert states["stage_out"] == ("failed" if task == "stage_out" else "success")
    assert airflow.tries(run, "release") == 1


def test_a_failed_release_changes_nothing(stack: Stack, airflow: Airflow) -> None:
    """Release only reports, so that it can fail in no other way than by hand; the place was given back by the job's own
    end, and the run tells of the job."""
    job, run = _held_at(stack, airflow, "release", "stage_out")
    with stack.paused("triggerer"):
        airflow.until_task(run, "release", "deferred")
        airflow.fail_task(run, "release")
    assert airflow.ended(run) == "success"
    assert airflow.tasks(run) == _ALL_FINE | {"release": "failed"}
    assert stack.describe(job)["status"] == "completed"
    assert stack.psql("SELECT state FROM prominence_lease WHERE job_id = %s", job) == [("ended",)]


# -- runs started in Airflow -------------------------------------------------------------------------------------------


def test_the_trigger_form(stack: Stack, airflow: Airflow, rows: Rows) -> None:
    """Started in Airflow with a document: the job is the user's who pressed the button."""
    run = rows.started["document"]
    assert airflow.ended(run) == "success"
    assert airflow.result(run, "provision")["name"] == "from-the-form"
    [(owner, status)] = stack.psql("SELECT owner, status FROM prominence_job WHERE run_id = %s", run)
    assert (owner, status) == (stack.env["AIRFLOW_USER"], "completed")


def test_the_trigger_form_refuses_a_bad_document(stack: Stack, airflow: Airflow) -> None:
    refused = airflow.trigger({"job": {**document(stack, Row()), "resuorces": {}}})
    assert refused.status_code == 400
    assert "resuorces" in refused.text


@pytest.mark.parametrize("typed", ["nothing", "number"])
def test_a_run_without_a_document_fails_and_says_why(airflow: Airflow, rows: Rows, typed: str) -> None:
    """The number of a job, typed into the form, is not believed."""
    run = rows.started[typed]
    assert airflow.ended(run) == "failed"
    assert airflow.tasks(run) == _NEVER_PLACED
    assert "job: is missing" in airflow.result(run, "provision")["message"]
