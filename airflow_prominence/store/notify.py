"""Waking those who wait: NOTIFY in the write's own transaction, so nobody is woken for what was rolled back."""

from __future__ import annotations

import time

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Event, Job, Unsettled

JOB_CHANNEL = "prominence_job"
NODE_CHANNEL = "prominence_node"
PLACING_CHANNEL = "prominence_placing"
ORDER_CHANNEL = "prominence_order"
SETTLING_CHANNEL = "prominence_settling"


def touch(session: Session, job: Job) -> None:
    """Give the job a new version and wake whoever watches it."""
    job.version += 1
    session.execute(select(func.pg_notify(JOB_CHANNEL, str(job.id))))


def wake_node(session: Session, node_id: int) -> None:
    """Wake a node's long-poll: there is something to start or to stop."""
    session.execute(select(func.pg_notify(NODE_CHANNEL, str(node_id))))


def answer_order(session: Session, job_id: int) -> None:
    """Wake whoever waits for an order to a job: it has written something, or ended."""
    session.execute(select(func.pg_notify(ORDER_CHANNEL, str(job_id))))


def ask_for_placing(session: Session) -> None:
    """Have an API server give out capacity as soon as this transaction is committed: some came back, or is wanted."""
    session.execute(select(func.pg_notify(PLACING_CHANNEL, "0")))


def ask_for_settling(session: Session, job: Job) -> None:
    """Have an API server see to what the end of a workflow's job means for the others, as soon as it is committed."""
    if job.workflow_id is not None:
        session.add(Unsettled(workflow_id=job.workflow_id))
        session.execute(select(func.pg_notify(SETTLING_CHANNEL, "0")))


def tell(session: Session, job: Job, kind: str, message: str, at: float | None = None) -> None:
    """Add a line to the job's story."""
    moment = time.time() if at is None else at
    session.add(Event(job_id=job.id, attempt=job.attempt, time=moment, kind=kind, message=message))
