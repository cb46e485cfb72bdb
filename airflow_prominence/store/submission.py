"""Writing a new job: its row, labels, secrets and first attempt, in the caller's transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_prominence.store.notify import ask_for_placing, tell
from airflow_prominence.store.phases import QUEUED, status_of
from airflow_prominence.store.tables import (
    Attempt,
    Idempotency,
    Job,
    Label,
    Secret,
    Workflow,
    WorkflowSecret,
    id_sequence,
)
from airflow_prominence.store.uploads import note_used


@dataclass(frozen=True)
class NewJob:
    """What a job is at its submission; the document is normalised and holds no secret any more."""

    owner: str
    groups: tuple[str, ...]
    email: str | None
    document: Mapping[str, Any]
    secrets: Mapping[str, bytes]
    nodes: int
    cpus: int
    memory_mb: int
    disk_mb: int
    walltime_s: int
    max_attempts: int
    priority: int
    max_queue_min: int
    #: The job that submits this one, if it is no person.
    by_job: int | None = None
    #: Keys of the uploads that the job needs.
    uploads: tuple[str, ...] = ()
    #: Of the factory that made it, or that made the job it is a clone of.
    parameters: dict[str, Any] | None = None


class KeyReused(Exception):
    """The Idempotency-Key was used before with another body."""


def next_ids(session: Session, count: int) -> list[int]:
    """Take several ids of the one sequence, in their order."""
    each = func.generate_series(1, count).table_valued("n")
    return sorted(int(number) for number in session.scalars(select(id_sequence.next_value()).select_from(each)))


def next_id(session: Session) -> int:
    """Take the next id of the one sequence that jobs and workflows share."""
    return int(session.execute(select(id_sequence.next_value())).scalar_one())


def insert_job(
    session: Session, job_id: int, new: NewJob, dag_id: str, run_id: str, group_id: str = "", slot: int = -1
) -> Job:
    """Add a job of no workflow and what belongs to it; nothing is committed here."""
    now = time.time()
    job = Job(**row_of(job_id, new, dag_id, run_id, now) | {"group_id": group_id, "slot": slot})
    session.add(job)
    session.flush()
    session.add(new_attempt(job, now))
    for key, value in job.labels.items():
        session.add(Label(job_id=job_id, key=key.lower(), value=value))
    for path, ciphertext in new.secrets.items():
        session.add(Secret(job_id=job_id, path=path, ciphertext=ciphertext))
    if new.uploads:
        note_used(session, new.uploads, now)
    tell(session, job, "queued", submitted(new, job.name), now)
    ask_for_placing(session)
    return job


def submitted(new: NewJob, name: str) -> str:
    """Return the first line of a job's story."""
    by = "" if new.by_job is None else f" by job {new.by_job}"
    return f"Submitted{by}" + (f" as {name}" if name else "")


def row_of(job_id: int, new: NewJob, dag_id: str, run_id: str, now: float) -> dict[str, Any]:
    """Return the values of a new job's row; a job of a workflow replaces some of them."""
    document = dict(new.document)
    return {
        "id": job_id,
        "owner": new.owner,
        "owner_groups": list(new.groups),
        "email": new.email,
        "name": document.get("name", ""),
        "document": document,
        "tasks": document["tasks"],
        "labels": document.get("labels", {}),
        "policies": document.get("policies", {}),
        "priority": new.priority,
        "nodes": new.nodes,
        "cpus": new.cpus,
        "memory_mb": new.memory_mb,
        "disk_mb": new.disk_mb,
        "walltime_s": new.walltime_s,
        "phase": QUEUED,
        "status": status_of(QUEUED),
        "reason": "",
        "node_success": None,
        "execution": None,
        "attempt": 1,
        "max_attempts": new.max_attempts,
        "wants_capacity": True,
        "in_queue": bool(document.get("policies", {}).get("leaveInQueue", False)),
        "created_at": now,
        "queue_until": now + new.max_queue_min * 60 if new.max_queue_min > 0 else None,
        "started_at": None,
        "ended_at": None,
        "released_at": None,
        "dag_id": dag_id,
        "run_id": run_id,
        "group_id": "",
        "slot": -1,
        "workflow_id": None,
        "member": None,
        "instance": None,
        "parameters": new.parameters,
        "kept_from": None,
        "version": 1,
        "holder": None,
        "holder_until": None,
        "run_ti": None,
        "stage_out_ti": None,
        "allowed": None,
        "holding": None,
        "tasks_success": None,
        "uid": uuid.uuid4().hex,
        "stdout_gone_at": None,
        "outputs_gone_at": None,
        "warned_at": None,
    }


def new_attempt(job: Job, now: float) -> Attempt:
    """Return the row of the attempt that the job now stands at."""
    return Attempt(job_id=job.id, attempt=job.attempt, queued_at=now, reason="")


def remember_key(session: Session, owner: str, key: str, body_sha256: str, job_id: int) -> None:
    """Bind an Idempotency-Key to a job; a concurrent twin fails on the primary key and is rolled back whole."""
    session.add(Idempotency(owner=owner, key=key, body_sha256=body_sha256, job_id=job_id, created_at=time.time()))
    session.flush()


def job_of_key(session: Session, owner: str, key: str, body_sha256: str) -> int | None:
    """Return the job that this key made before, ``None`` if it is new; raise :class:`KeyReused` for another body."""
    row = session.get(Idempotency, (owner, key))
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise KeyReused(key)
    return row.job_id


def secrets_of(session: Session, job: Job) -> dict[str, bytes]:
    """Return a job's encrypted secrets by their path in its document; those of a workflow's job are the workflow's."""
    if job.workflow_id is None:
        rows: Sequence[Secret] = session.scalars(select(Secret).where(Secret.job_id == job.id)).all()
        return {row.path: row.ciphertext for row in rows}
    of_all = workflow_secrets(session, job.workflow_id)
    if not of_all:
        return {}
    jobs = session.get_one(Workflow, job.workflow_id).document["jobs"]
    prefix = next(f"jobs[{index}]." for index, doc in enumerate(jobs) if doc["name"] == job.member)
    return {path.removeprefix(prefix): secret for path, secret in of_all.items() if path.startswith(prefix)}


def workflow_secrets(session: Session, workflow_id: int) -> dict[str, bytes]:
    """Return a workflow's encrypted secrets by their path in its document."""
    rows = session.execute(
        select(WorkflowSecret.path, WorkflowSecret.ciphertext).where(WorkflowSecret.workflow_id == workflow_id)
    )
    return {row.path: row.ciphertext for row in rows}
