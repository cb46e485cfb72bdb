"""A factory's jobs, shared out among the mapped tasks of its group: what one such task drives, in bulk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, literal, or_, select, update
from sqlalchemy.orm import Session

from airflow_prominence.store import capacity
from airflow_prominence.store.notify import ask_for_placing
from airflow_prominence.store.phases import DONE, FAILED, QUEUED
from airflow_prominence.store.tables import Job
from airflow_prominence.store.transitions import begin_again, finish, lock_job
from airflow_prominence.store.workflows import NOT_STARTED

_NAMED_OF_FAILED = 20


@dataclass(frozen=True)
class Share:
    """The jobs in every ``chunks``-th slot of a group, from number ``chunk`` on."""

    dag_id: str
    run_id: str
    group_id: str
    chunk: int
    chunks: int

    def holds(self) -> ColumnElement[bool]:
        """Return the condition by which a job is one of them."""
        return (
            (Job.dag_id == self.dag_id)
            & (Job.run_id == self.run_id)
            & (Job.group_id == self.group_id)
            & (Job.slot >= 0)
            & (func.mod(Job.slot, self.chunks) == self.chunk)
        )


def begin(session: Session, share: Share, ti_id: str) -> None:
    """Let the share's jobs want their places, for the instance of its task that drives them now.

    If the task was cleared since they were begun, those that did not end well are tried again; all, if all did.
    """
    cleared = session.scalar(select(func.count()).where(share.holds(), Job.run_ti.is_not(None), Job.run_ti != ti_id))
    unstarted = session.scalar(select(func.count()).where(share.holds(), Job.reason == NOT_STARTED))
    if cleared or unstarted:
        _begin_again(session, share, bool(cleared))
    some_queued = select(Job.id).where(share.holds(), Job.phase == QUEUED).limit(1)
    first = session.scalar(some_queued)
    if first is not None and capacity.impossible(session, session.get_one(Job, first)):
        # They are of one template, so what holds for one holds for all.
        for job_id in session.scalars(select(Job.id).where(share.holds(), Job.phase == QUEUED).order_by(Job.id)).all():
            job = lock_job(session, job_id)
            if job is not None and job.phase == QUEUED:
                finish(session, job, FAILED, capacity.IMPOSSIBLE, final=True)
    queue_min = func.coalesce(Job.policies["maximumTimeInQueue"].as_integer(), 0)
    now = literal(time.time())
    session.execute(
        update(Job)
        .where(share.holds(), Job.phase == QUEUED, Job.wants_capacity.is_(False), queue_min > 0)
        .values(queue_until=now + queue_min * 60),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        update(Job)
        .where(share.holds(), Job.phase == QUEUED, Job.wants_capacity.is_(False))
        .values(wants_capacity=True),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        update(Job).where(share.holds(), or_(Job.run_ti.is_(None), Job.run_ti != ti_id)).values(run_ti=ti_id),
        execution_options={"synchronize_session": False},
    )
    ask_for_placing(session)


def _begin_again(session: Session, share: Share, cleared: bool) -> None:
    well = Job.node_success.is_(True)
    over = select(Job.id).where(share.holds(), Job.phase == DONE)
    wanted = over.where(Job.reason == NOT_STARTED) if not cleared else over.where(~func.coalesce(well, False))
    ids = session.scalars(wanted.order_by(Job.id)).all()
    if cleared and not ids:
        ids = session.scalars(over.order_by(Job.id)).all()
    for job_id in ids:
        job = lock_job(session, job_id)
        if job is not None and job.phase == DONE:
            begin_again(session, job)


def active(session: Session, share: Share) -> list[int]:
    """Return the ids of those that are not over."""
    return list(session.scalars(select(Job.id).where(share.holds(), Job.phase != DONE).order_by(Job.id)))


def progress(session: Session, shares: Iterable[Share]) -> list[dict[str, Any]]:
    """Count the jobs of each share by how far they are, those of one group in one query."""
    shares = list(shares)
    groups: dict[tuple[str, str, str, int], dict[int, dict[str, Any]]] = {}
    for share in shares:
        key = (share.dag_id, share.run_id, share.group_id, share.chunks)
        if key not in groups:
            groups[key] = _group(session, share)
    none = {"total": 0, "done": 0, "failed": 0, "running": 0}
    return [groups[share.dag_id, share.run_id, share.group_id, share.chunks].get(share.chunk, none) for share in shares]


def _group(session: Session, share: Share) -> dict[int, dict[str, Any]]:
    chunk = func.mod(Job.slot, share.chunks).label("chunk")
    over = Job.phase == DONE
    rows = session.execute(
        select(
            chunk,
            func.count().label("total"),
            func.count().filter(over).label("done"),
            func.count().filter(over, Job.node_success.is_not(True)).label("failed"),
            func.count().filter(~over, Job.phase != QUEUED).label("running"),
        )
        .where(Job.dag_id == share.dag_id, Job.run_id == share.run_id, Job.group_id == share.group_id, Job.slot >= 0)
        .group_by(chunk)
    )
    return {
        int(row.chunk): {"total": row.total, "done": row.done, "failed": row.failed, "running": row.running}
        for row in rows
    }


def failures(session: Session, share: Share) -> list[dict[str, Any]]:
    """Return the first jobs of a share that did not end well: id, name, status, reason and exit codes."""
    query = select(Job).where(share.holds(), Job.phase == DONE, Job.node_success.is_not(True)).order_by(Job.slot)
    return [
        {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "reason": job.reason,
            "exit_codes": [task["exitCode"] for task in (job.execution or {}).get("tasks", ()) if "exitCode" in task],
        }
        for job in session.scalars(query.limit(_NAMED_OF_FAILED))
    ]
