from __future__ import annotations

from typing import Any

import pytest

from airflow_prominence.driver import JobView
from airflow_prominence.driver.verdict import verdict
from tests.fakes.internal_api import FakeJob


def _job(*reached: str, **fields: Any) -> JobView:
    events = [{"time": float(n), "attempt": 1, "kind": kind, "message": kind} for n, kind in enumerate(reached)]
    return JobView.from_json(FakeJob(1, events=events, **fields).view())


_RAN = ("placed", "stage_in", "running", "stage_out")

QUEUED = _job()
READY = _job("placed", phase="ready", site="local", nodes=["n1"])
RUNNING = _job(*_RAN[:3], phase="running")
TASKS_FINE = _job(*_RAN, phase="staging_out", tasks_success=True)
TASKS_FAILED = _job(*_RAN, phase="staging_out", tasks_success=False, exit_codes=[3])
FINE = _job(*_RAN, phase="done", outcome="completed", node_success=True, exit_codes=[0])
EXIT_1 = _job(*_RAN, phase="done", outcome="completed", node_success=False, exit_codes=[0, 1])
EXIT_1_IS_FINE = _job(*_RAN, phase="done", outcome="completed", node_success=True, exit_codes=[1])
TOO_LONG_QUEUED = _job(phase="done", outcome="failed", reason="Maximum time queued was exceeded", node_success=False)
PULL_FAILED = _job(
    "placed", "stage_in", phase="done", outcome="failed", reason="Unable to pull image", node_success=False
)
WALLTIME = _job(*_RAN[:3], phase="done", outcome="killed", reason="Walltime limit exceeded", node_success=False)
DELETED_WAITING = _job(phase="done", outcome="deleted", reason="Job deleted by user", node_success=False)
DELETED_RUNNING = _job(*_RAN[:3], phase="done", outcome="deleted", reason="Job deleted by user", node_success=False)
STAGE_OUT_FAILED = _job(
    *_RAN,
    phase="done",
    outcome="failed",
    reason="Unable to stageout output to object storage",
    node_success=False,
)

HELD = _job(*_RAN[:2], phase="staging_in", allowed="staging_in", holding="running")
NOT_LET = _job(
    *_RAN[:2], phase="done", allowed="staging_in", outcome="failed", reason="Job was not let go on", node_success=False
)


@pytest.mark.parametrize(
    ("job", "phase", "end"),
    [
        (HELD, "stage_in", "success"),
        (NOT_LET, "run", "failed"),
        (NOT_LET, "stage_out", "skipped"),
        (NOT_LET, "release", "success"),
        (READY, "provision", "success"),
        (RUNNING, "provision", "success"),
        (FINE, "provision", "success"),
        (PULL_FAILED, "provision", "success"),
        (TOO_LONG_QUEUED, "provision", "failed"),
        (DELETED_WAITING, "provision", "failed"),
        (RUNNING, "stage_in", "success"),
        (FINE, "stage_in", "success"),
        (WALLTIME, "stage_in", "success"),
        (PULL_FAILED, "stage_in", "failed"),
        (DELETED_WAITING, "stage_in", "failed"),
        (TASKS_FINE, "run", "success"),
        (TASKS_FAILED, "run", "failed"),
        (FINE, "run", "success"),
        (EXIT_1, "run", "failed"),
        (EXIT_1_IS_FINE, "run", "success"),
        (WALLTIME, "run", "failed"),
        (DELETED_RUNNING, "run", "failed"),
        (STAGE_OUT_FAILED, "run", "failed"),
        (FINE, "stage_out", "success"),
        (EXIT_1, "stage_out", "success"),
        (EXIT_1_IS_FINE, "stage_out", "success"),
        (STAGE_OUT_FAILED, "stage_out", "failed"),
        (WALLTIME, "stage_out", "skipped"),
        (DELETED_RUNNING, "stage_out", "skipped"),
        (PULL_FAILED, "stage_out", "skipped"),
        (TOO_LONG_QUEUED, "stage_out", "skipped"),
        (FINE, "release", "success"),
        (DELETED_WAITING, "release", "success"),
        (FINE, "job", "success"),
        (EXIT_1, "job", "failed"),
    ],
)
def test_how_a_phase_ends(job: JobView, phase: str, end: str) -> None:
    assert verdict(job, phase).end == end


def test_the_sentences() -> None:
    assert verdict(HELD, "stage_in").sentence == "Job 1 (calc) has its input."
    told = "Job 1 (calc) failed: Job was not let go on; its place is given back."
    assert verdict(NOT_LET, "release").sentence == told
    assert verdict(READY, "provision").sentence == "Job 1 (calc) has its place at local (n1)."
    assert verdict(EXIT_1, "run").sentence == (
        "A task of job 1 (calc) ended with an exit code other than 0 (exit codes 0, 1)."
    )
    assert verdict(WALLTIME, "run").sentence == "Job 1 (calc) was killed: Walltime limit exceeded."
    assert verdict(DELETED_WAITING, "provision").sentence == "Job 1 (calc) was deleted: Job deleted by user."
    assert verdict(TOO_LONG_QUEUED, "stage_out").sentence == (
        "Nothing to take away: Job 1 (calc) failed: Maximum time queued was exceeded."
    )


def test_a_job_without_node_success_is_never_fine() -> None:
    lost = _job(*_RAN, phase="done", outcome="failed", reason="Job was evicted")
    assert verdict(lost, "run").end == "failed"


def test_what_a_cleared_job_had_reached_before_does_not_count() -> None:
    before = [{"time": float(n), "attempt": 1, "kind": kind, "message": kind} for n, kind in enumerate(_RAN)]
    cleared = {"time": 9.0, "attempt": 2, "kind": "cleared", "message": "Cleared in Airflow"}
    job = JobView.from_json(FakeJob(1, attempt=2, phase="queued", events=[*before, cleared]).view())
    assert not job.has_reached("ready")
    ended = FakeJob(1, attempt=2, phase="done", outcome="deleted", reason="Job deleted by user")
    ended.events = [*before, cleared]
    assert verdict(JobView.from_json(ended.view()), "provision").end == "failed"
