"""Workflows as rows: written with all their jobs, settled as these end, deleted as a whole."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, case, cast, delete, exists, func, insert, literal, select, text, update
from sqlalchemy.orm import Session

from airflow_prominence.store import letters
from airflow_prominence.store.notify import JOB_CHANNEL, ask_for_placing
from airflow_prominence.store.phases import COMPLETED, DELETED, DONE, ENDED, FAILED, QUEUED
from airflow_prominence.store.tables import (
    WANTS_LETTERS,
    Attempt,
    Event,
    Job,
    Label,
    Lease,
    Unsettled,
    Workflow,
    WorkflowLabel,
    WorkflowSecret,
)
from airflow_prominence.store.transitions import finish, lock_job
from airflow_prominence.store.uploads import note_used

DELETED_BY_USER = "Workflow deleted by user"
JOB_DELETED = "Job part of a workflow which was deleted by user"
NOT_STARTED = "Job was not started: a job that it depends on failed"

#: So many rows are written by one statement: few round trips, and no more of them in memory than this.
_BATCH = 1000
_NAMED_OF_FAILED = 5


@dataclass(frozen=True)
class NewWorkflow:
    """What a workflow is at its submission; the document is normalised and holds no secret any more."""

    owner: str
    groups: tuple[str, ...]
    email: str | None
    document: Mapping[str, Any]
    secrets: Mapping[str, bytes]
    in_queue: bool
    #: Keys of the uploads that its jobs need.
    uploads: tuple[str, ...] = ()
    rerun_of: int | None = None
    #: The run of the shared DAG that makes it.
    launcher: str | None = None


def insert_workflow(session: Session, workflow_id: int, new: NewWorkflow, dag_id: str, run_id: str) -> Workflow:
    """Add the workflow without its jobs; nothing is committed here."""
    now = time.time()
    document = dict(new.document)
    workflow = Workflow(
        id=workflow_id,
        owner=new.owner,
        owner_groups=list(new.groups),
        email=new.email,
        name=document.get("name", ""),
        document=document,
        rerun_of=new.rerun_of,
        launcher=new.launcher,
        status=None,
        reason="",
        in_queue=new.in_queue,
        created_at=now,
        started_at=None,
        ended_at=None,
        progress=None,
        dag_id=dag_id,
        run_id=run_id,
    )
    session.add(workflow)
    session.flush()
    for key, value in document.get("labels", {}).items():
        session.add(WorkflowLabel(workflow_id=workflow_id, key=key.lower(), value=value))
    for path, ciphertext in new.secrets.items():
        session.add(WorkflowSecret(workflow_id=workflow_id, path=path, ciphertext=ciphertext))
    if new.uploads:
        note_used(session, new.uploads, now)
    session.flush()
    return workflow


def insert_jobs(session: Session, rows: Iterable[dict[str, Any]], story: str) -> int:
    """Add the rows of a workflow's jobs, with what belongs to them; return how many there were.

    A row that is done already (one kept by a rerun) has ``site`` beside its columns: where it ran.
    """
    count = 0
    for batch in _batches(rows):
        sites = [row.pop("site", None) for row in batch]
        session.execute(insert(Job), batch)
        session.execute(
            insert(Attempt),
            [
                {
                    "job_id": row["id"],
                    "attempt": row["attempt"],
                    "queued_at": row["created_at"],
                    "reason": "",
                    "site": site,
                }
                for row, site in zip(batch, sites, strict=True)
            ],
        )
        session.execute(
            insert(Event),
            [
                {
                    "job_id": row["id"],
                    "attempt": row["attempt"],
                    "time": row["created_at"],
                    "kind": "queued",
                    "message": f"{story} as {row['name']}",
                }
                for row in batch
            ],
        )
        labels = [
            {"job_id": row["id"], "key": key.lower(), "value": value}
            for row in batch
            for key, value in row["labels"].items()
        ]
        if labels:
            session.execute(insert(Label), labels)
        count += len(batch)
    ask_for_placing(session)
    return count


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def find_workflow(session: Session, workflow_id: int, owner: str) -> Workflow | None:
    """Return the workflow if it is this owner's."""
    return session.scalars(select(Workflow).where(Workflow.id == workflow_id, Workflow.owner == owner)).one_or_none()


def workflow_of_run(session: Session, dag_id: str, run_id: str) -> Workflow | None:
    """Return the workflow that a run of Airflow drives."""
    query = select(Workflow).where(Workflow.dag_id == dag_id, Workflow.run_id == run_id)
    return session.scalars(query).one_or_none()


def launched_by(session: Session, run_id: str) -> Workflow | None:
    """Return the workflow that a run of the shared DAG has made."""
    return session.scalars(select(Workflow).where(Workflow.launcher == run_id)).one_or_none()


def first_of_dag(session: Session, dag_id: str) -> Workflow | None:
    """Return the workflow that a DAG was made of: the first of those that its runs drive."""
    query = select(Workflow).where(Workflow.dag_id == dag_id).order_by(Workflow.id).limit(1)
    return session.scalars(query).one_or_none()


def jobs_of(session: Session, workflow_id: int) -> list[Job]:
    """Return all jobs of a workflow, in the order in which they were made."""
    return list(session.scalars(select(Job).where(Job.workflow_id == workflow_id).order_by(Job.id)))


def job_of_member(session: Session, workflow_id: int, member: str, instance: int | None) -> Job | None:
    """Return a job of a workflow by its name there; of a factory's jobs by number, the first where none is given."""
    query = select(Job).where(Job.workflow_id == workflow_id, Job.member == member)
    if instance is not None:
        query = query.where(Job.instance == instance)
    return session.scalars(query.order_by(Job.instance).limit(1)).one_or_none()


def unfinished(session: Session, workflow_id: int) -> list[tuple[int, str, int]]:
    """Return id, group and slot of a workflow's jobs that are not over."""
    query = select(Job.id, Job.group_id, Job.slot).where(Job.workflow_id == workflow_id, Job.phase != DONE)
    return [(job_id, group_id, slot) for job_id, group_id, slot in session.execute(query.order_by(Job.id))]


def lock_workflow(session: Session, workflow_id: int) -> Workflow | None:
    """Return the workflow with its row locked.

    Jobs of it may still end meanwhile: their rows refer to this one, which such a lock lets them do.
    """
    query = select(Workflow).where(Workflow.id == workflow_id)
    locked = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return session.scalars(locked).one_or_none()


def settle(session: Session) -> list[int]:
    """See to what the ends of jobs mean for their workflows; return the ids of those that have ended by it."""
    told = session.scalars(delete(Unsettled).returning(Unsettled.workflow_id)).all()
    return [workflow_id for workflow_id in sorted(set(told)) if settle_workflow(session, workflow_id)]


def settle_workflow(session: Session, workflow_id: int) -> bool:
    """End the jobs that can't start any more and, with its last job, the workflow; ``True`` if it has ended now."""
    workflow = lock_workflow(session, workflow_id)
    if workflow is None or workflow.ended_at is not None:
        return False
    failed = session.scalars(
        select(Job.member)
        .where(Job.workflow_id == workflow_id, Job.phase == DONE, Job.node_success.is_not(True))
        .distinct()
    ).all()
    doomed = _descendants(workflow.document.get("dependencies", {}), [name for name in failed if name])
    if doomed:
        # Not those that somebody has let start in Airflow all the same.
        waiting = (Job.member.in_(doomed), Job.wants_capacity.is_(False))
        _end_queued(session, workflow_id, waiting, FAILED, NOT_STARTED)
    still = select(Job.id).where(Job.workflow_id == workflow_id, Job.phase != DONE).limit(1)
    if session.scalar(still) is not None:
        return False
    end_workflow(session, workflow)
    return True


def end_workflow(session: Session, workflow: Workflow) -> None:
    """Write the end of a workflow all of whose jobs are over; its row is locked."""
    progress = progress_of(session, workflow.id)
    bad = progress["failed"] + progress["waiting"]
    started, ended = session.execute(
        select(func.min(Job.started_at), func.max(Job.ended_at)).where(Job.workflow_id == workflow.id)
    ).one()
    if workflow.status is None:
        workflow.status = FAILED if bad else COMPLETED
        workflow.reason = _failures(session, workflow.id, progress) if bad else ""
    workflow.progress, workflow.started_at = progress, started
    workflow.ended_at = max(filter(None, (ended, workflow.created_at)), default=time.time())
    letters.workflow_finished(session, workflow)
    session.flush()


def _failures(session: Session, workflow_id: int, progress: Mapping[str, int]) -> str:
    query = (
        select(Job.member, Job.instance)
        .where(Job.workflow_id == workflow_id, Job.node_success.is_not(True), Job.reason != NOT_STARTED)
        .order_by(Job.id)
        .limit(_NAMED_OF_FAILED)
    )
    names = [str(member) if number is None else f"{member}/{number}" for member, number in session.execute(query)]
    more = ", …" if progress["failed"] > len(names) else ""
    jobs = "job" if progress["total"] == 1 else "jobs"
    return f"{progress['failed']} of {progress['total']} {jobs} failed: {', '.join(names)}{more}"


def _descendants(dependencies: Mapping[str, list[str]], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        for child in dependencies.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def progress_of(session: Session, workflow_id: int) -> dict[str, int]:
    """Count a workflow's jobs by what became of them (``prominence.md`` 3.4)."""
    row = session.execute(select(*counts()).where(Job.workflow_id == workflow_id)).one()
    return {key: int(value) for key, value in row._mapping.items()}


def counts() -> tuple[ColumnElement[int], ...]:
    """Return the columns of a progress: each job is counted once beside ``total``.

    A job that never started, because one that it depends on failed, stays among those that wait.
    """
    over = Job.phase == DONE
    never = over & (Job.reason == NOT_STARTED)
    idle = (Job.phase == QUEUED) & Job.wants_capacity.is_(False)
    return (
        func.count().label("total"),
        func.count().filter(over, Job.node_success.is_(True)).label("done"),
        func.count().filter(over, Job.node_success.is_not(True), ~never).label("failed"),
        func.count().filter(~over, ~idle).label("queued"),
        func.count().filter(never | idle).label("waiting"),
    )


def delete_workflow(session: Session, workflow_id: int, owner: str | None, reason: str = DELETED_BY_USER) -> bool:
    """End an active workflow and all its jobs as deleted; ``False`` if there is none such of this owner."""
    workflow = lock_workflow(session, workflow_id)
    if workflow is None or (owner is not None and workflow.owner != owner) or workflow.ended_at is not None:
        return False
    workflow.status, workflow.reason = DELETED, reason
    _end_queued(session, workflow_id, (), DELETED, JOB_DELETED)
    active = select(Job.id).where(Job.workflow_id == workflow_id, Job.phase != DONE).order_by(Job.id)
    for job_id in session.scalars(active).all():
        job = lock_job(session, job_id)
        if job is not None and job.phase != DONE:
            finish(session, job, DELETED, JOB_DELETED, final=True)
    end_workflow(session, workflow)
    return True


def leave_queue(session: Session, workflow_id: int, owner: str) -> bool:
    """Take a finished workflow out of its owner's queue; an active one will leave it with its end."""
    workflow = lock_workflow(session, workflow_id)
    if workflow is None or workflow.owner != owner or (workflow.ended_at is not None and not workflow.in_queue):
        return False
    workflow.in_queue = False
    return True


def _end_queued(
    session: Session, workflow_id: int, which: tuple[ColumnElement[bool], ...], status: str, reason: str
) -> None:
    """End those of a workflow's jobs that queue, thousands at once: no node knows of them."""
    now = time.time()
    # What is not written yet would be lost with what is read anew below.
    session.flush()
    chosen = select(Job.id).where(Job.workflow_id == workflow_id, Job.phase == QUEUED, *which).order_by(Job.id)
    ids = list(session.scalars(chosen.with_for_update()))
    for start in range(0, len(ids), _BATCH):
        some = ids[start : start + _BATCH]
        open_lease = exists().where(Lease.job_id == Job.id, Lease.state != ENDED)
        session.execute(
            update(Attempt)
            .where(Attempt.job_id.in_(some), Attempt.ended_at.is_(None))
            .values(ended_at=now, status=status, reason=reason),
            execution_options={"synchronize_session": False},
        )
        present = select(
            Job.id, Job.attempt, literal(now), literal("ended"), literal(f"Job ended as {status}: {reason}")
        )
        session.execute(
            insert(Event).from_select(["job_id", "attempt", "time", "kind", "message"], present.where(Job.id.in_(some)))
        )
        session.execute(
            update(Job)
            .where(Job.id.in_(some))
            .values(
                phase=DONE,
                status=status,
                reason=reason,
                node_success=False,
                ended_at=now,
                wants_capacity=False,
                released_at=func.coalesce(Job.released_at, _unless(open_lease, now)),
                version=Job.version + 1,
            ),
            execution_options={"synchronize_session": False},
        )
        session.execute(select(func.pg_notify(JOB_CHANNEL, cast(Job.id, Text))).where(Job.id.in_(some)))
        session.expire_all()
        for job in session.scalars(select(Job).where(Job.id.in_(some), text(WANTS_LETTERS))):
            letters.job_finished(session, job)


def _unless(condition: ColumnElement[bool], value: float) -> ColumnElement[Any]:
    return case((condition, None), else_=value)
