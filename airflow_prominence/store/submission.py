"""Writing a new job: its row, labels, secrets and first attempt, in the caller's transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_prominence.store.notify import ask_for_placing, tell
from airflow_prominence.store.phases import QUEUED, status_of
from airflow_prominence.store.tables import Attempt, Idempotency, Job, Label, Secret, id_sequence
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


class KeyReused(Exception):
    """The Idempotency-Key was used before with another body."""


def next_id(session: Session) -> int:
    """Take the next id of the one sequence that jobs and workflows share."""
    return int(session.execute(select(id_sequence.next_value())).scalar_one())


def insert_job(session: Session, job_id: int, new: NewJob, dag_id: str, run_id: str, group_id: str = "") -> Job:
    """Add the job and what belongs to it; nothing is committed here."""
    now = time.time()
    document = dict(new.document)
    job = Job(
        id=job_id,
        owner=new.owner,
        owner_groups=list(new.groups),
        email=new.email,
        name=document.get("name", ""),
        document=document,
        tasks=document["tasks"],
        labels=document.get("labels", {}),
        policies=document.get("policies", {}),
        priority=new.priority,
        nodes=new.nodes,
        cpus=new.cpus,
        memory_mb=new.memory_mb,
        disk_mb=new.disk_mb,
        walltime_s=new.walltime_s,
        phase=QUEUED,
        status=status_of(QUEUED),
        reason="",
        node_success=None,
        execution=None,
        attempt=1,
        max_attempts=new.max_attempts,
        wants_capacity=True,
        # A workflow stays in the queue as a whole or not at all.
        in_queue=not group_id and bool(document.get("policies", {}).get("leaveInQueue", False)),
        created_at=now,
        queue_until=now + new.max_queue_min * 60 if new.max_queue_min > 0 else None,
        started_at=None,
        ended_at=None,
        released_at=None,
        dag_id=dag_id,
        run_id=run_id,
        group_id=group_id,
        version=1,
        holder=None,
        holder_until=None,
        run_ti=None,
        stage_out_ti=None,
        uid=uuid.uuid4().hex,
        stdout_gone_at=None,
        outputs_gone_at=None,
        warned_at=None,
    )
    session.add(job)
    session.flush()
    session.add(new_attempt(job, now))
    for key, value in job.labels.items():
        session.add(Label(job_id=job_id, key=key.lower(), value=value))
    for path, ciphertext in new.secrets.items():
        session.add(Secret(job_id=job_id, path=path, ciphertext=ciphertext))
    if new.uploads:
        note_used(session, new.uploads, now)
    by = "" if new.by_job is None else f" by job {new.by_job}"
    tell(session, job, "queued", f"Submitted{by}" + (f" as {job.name}" if job.name else ""), now)
    ask_for_placing(session)
    return job


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


def secrets_of(session: Session, job_id: int) -> dict[str, bytes]:
    """Return a job's encrypted secrets by their path in the document."""
    rows: Sequence[Secret] = session.scalars(select(Secret).where(Secret.job_id == job_id)).all()
    return {row.path: row.ciphertext for row in rows}
