"""Every change of a job's state after its submission: one function each, one transaction, fenced by attempt."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_prominence.store import capacity, letters
from airflow_prominence.store.notify import ask_for_placing, ask_for_settling, tell, touch
from airflow_prominence.store.phases import (
    COMPLETED,
    DELETED,
    DONE,
    FAILED,
    QUEUED,
    READY,
    RUNNING,
    reached,
    status_of,
)
from airflow_prominence.store.submission import new_attempt
from airflow_prominence.store.tables import Attempt, Job, Workflow

EVICTED = "Job was evicted"
DELETED_BY_USER = "Job deleted by user"
CLEARED = "Cleared in Airflow"
QUEUED_TOO_LONG = "Maximum time queued was exceeded"

#: How long a trigger that claimed a job may be silent before another may act for it on a cloud, in seconds.
HOLD_S = 30.0


def lock_job(session: Session, job_id: int) -> Job | None:
    """Return the job with its row locked, as it is now in the database."""
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def claim(session: Session, job_id: int, holder: str) -> Job | None:
    """Register a job as wanting capacity and place what can be placed now.

    Has no effect on a job that is past its queue. A job that no known node could ever run ends at once.
    """
    job = lock_job(session, job_id)
    if job is None or job.phase != QUEUED:
        return job
    job.holder, job.holder_until = holder, time.time() + HOLD_S
    if capacity.impossible(session, job):
        finish(session, job, FAILED, capacity.IMPOSSIBLE, final=True)
        return job
    capacity.want_capacity(session, job)
    if job_id not in capacity.place_waiting(session):
        capacity.mark_waiting(session, job)
    return job


def enter(session: Session, job: Job, phase: str, at: float) -> None:
    """Note that the job's attempt has come to a phase of its run."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    setattr(attempt, f"{phase}_at", at)
    job.phase, job.status, job.reason = phase, status_of(phase), ""
    job.holding = None
    touch(session, job)


def finish(
    session: Session,
    job: Job,
    status: str,
    reason: str,
    *,
    node_success: bool = False,
    execution: dict[str, Any] | None = None,
    at: float | None = None,
    final: bool = False,
    only_copy_until: float | None = None,
) -> None:
    """End the job's attempt: the job ends with it, or goes back to its queue for another attempt.

    An attempt that failed, or completed without node success (``prominence.md`` 3.4), is followed by another
    while some are left and ``final`` is not set. What was killed or deleted stays so.
    """
    if job.phase == DONE:
        return
    now = time.time() if at is None else min(at, time.time())
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    attempt.ended_at, attempt.status, attempt.reason, attempt.execution = now, status, reason, execution
    again = not final and job.attempt < job.max_attempts and _may_be_retried(status, node_success)
    ending = status + (f": {reason}" if reason else "")
    if again:
        tell(session, job, "retry", f"Attempt {job.attempt} of {job.max_attempts} ended as {ending}; trying again", now)
        capacity.stop_leases(session, job, "retry")
        job.attempt += 1
        job.phase, job.status, job.reason = QUEUED, status_of(QUEUED), ""
        job.wants_capacity, job.started_at = True, None
        job.holding, job.tasks_success = None, None
        if job.allowed is not None and reached(job.allowed, RUNNING):
            # The task that stages out asks again, if it has begun.
            job.allowed = RUNNING
        session.add(new_attempt(job, now))
        ask_for_placing(session)
    else:
        tell(session, job, "ended", f"Job ended as {ending}", now)
        capacity.stop_leases(session, job, status)
        job.phase, job.status, job.reason = DONE, status, reason
        job.node_success, job.ended_at = node_success, now
        job.holding = None
        job.execution, job.wants_capacity = execution, False
        letters.job_finished(session, job, only_copy_until)
        capacity.settle_release(session, job)
        ask_for_settling(session, job)
    touch(session, job)
    session.flush()


def begin_again(session: Session, job: Job) -> None:
    """Open a new attempt of a job that was cleared in Airflow, whatever has become of it; its row is locked.

    An attempt that still goes on is ended first. As after a submission, the queue's limit counts from now, and the
    job may be tried again as often as its policies say.
    """
    now = time.time()
    if job.phase != DONE:
        attempt = session.get_one(Attempt, (job.id, job.attempt))
        attempt.ended_at, attempt.status, attempt.reason = now, DELETED, CLEARED
    capacity.stop_leases(session, job, "cleared")
    queue_min = int(job.policies.get("maximumTimeInQueue", 0))
    job.queue_until = now + queue_min * 60 if queue_min > 0 else None
    job.max_attempts = job.attempt + 1 + int(job.policies.get("maximumRetries", 0))
    job.attempt += 1
    job.phase, job.status, job.reason = QUEUED, status_of(QUEUED), ""
    job.node_success, job.execution, job.wants_capacity = None, None, True
    job.holding, job.tasks_success = None, None
    if job.allowed is not None:
        job.allowed = READY
    job.started_at = job.ended_at = job.released_at = None
    job.stdout_gone_at = job.outputs_gone_at = job.warned_at = None
    job.in_queue = job.workflow_id is None and bool(job.policies.get("leaveInQueue", False))
    if job.workflow_id is not None:
        active = {"status": None, "reason": "", "ended_at": None}
        session.execute(update(Workflow).where(Workflow.id == job.workflow_id).values(active))
    session.add(new_attempt(job, now))
    tell(session, job, "cleared", f"{CLEARED}: trying again, attempt {job.attempt}", now)
    touch(session, job)
    ask_for_placing(session)
    session.flush()


def _may_be_retried(status: str, node_success: bool) -> bool:
    return status == FAILED or (status == COMPLETED and not node_success)


def will_retry(job: Job) -> bool:
    """Tell whether a bad end of the present attempt would be followed by another."""
    return job.phase != DONE and job.attempt < job.max_attempts


def delete(session: Session, job_id: int, owner: str | None, reason: str = DELETED_BY_USER) -> bool:
    """End an active job as deleted; ``False`` if there is none such of this owner (``None``: anybody's)."""
    job = lock_job(session, job_id)
    if job is None or (owner is not None and job.owner != owner) or job.phase == DONE:
        return False
    finish(session, job, DELETED, reason, final=True)
    return True


def leave_queue(session: Session, job_id: int, owner: str) -> bool:
    """Take a finished job out of its owner's queue; an active one will leave it with its end.

    ``False`` if it has left already, or is not this owner's.
    """
    job = lock_job(session, job_id)
    if job is None or job.owner != owner or (job.phase == DONE and not job.in_queue):
        return False
    job.in_queue = False
    return True


def evict(session: Session, job: Job, why: str) -> None:
    """End an attempt whose node or agent was lost."""
    tell(session, job, "evicted", why)
    finish(session, job, FAILED, EVICTED)


def renew(session: Session, holder: str, ids: list[int]) -> None:
    """Renew the leases a driver has on its jobs, all in one statement."""
    if ids:
        session.execute(
            update(Job).where(Job.id.in_(ids), Job.holder == holder).values(holder_until=time.time() + HOLD_S)
        )
