"""Jobs that hold at the borders of their phases until a task in Airflow lets them go on: those of DAGs people write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence.store.notify import tell, touch
from airflow_prominence.store.phases import DONE, READY, RUNNING, STAGING_IN, STAGING_OUT, reached
from airflow_prominence.store.tables import Job
from airflow_prominence.store.transitions import will_retry

#: Before which phases a job holds.
BORDERS = (STAGING_IN, RUNNING, STAGING_OUT)
#: As far as it may go when nothing has let it go on.
AT_FIRST = READY

_BEFORE = {
    STAGING_IN: "before its input is staged in",
    RUNNING: "before its tasks",
    STAGING_OUT: "before its output is staged out",
}


def allow(session: Session, job: Job, phase: str) -> None:
    """Let a job that holds go on to a phase; its row is locked."""
    if job.allowed is not None and job.phase != DONE and not reached(job.allowed, phase):
        job.allowed = phase
        touch(session, job)
        session.flush()


def note(session: Session, job: Job, data: Mapping[str, Any], at: float) -> None:
    """Apply the report that a job holds before a phase; after its tasks it says how these ended."""
    phase = data["phase"]
    if job.allowed is None:
        return
    if phase == STAGING_OUT:
        job.tasks_success = data.get("tasks_success") is True
        job.execution = {"tasks": data.get("tasks", [])}
        if not job.tasks_success and will_retry(job):
            # No task of Airflow is to see an end that is none: the next attempt comes without anybody's doing.
            job.allowed = STAGING_OUT
    if not reached(job.allowed, phase):
        job.holding = phase
        tell(session, job, "held", f"Holding {_BEFORE[phase]} until its task in Airflow has started", at)
    touch(session, job)
