"""Waking those who wait: NOTIFY in the write's own transaction, so nobody is woken for what was rolled back.

A transaction says whom to wake as often as it likes; ``send`` tells PostgreSQL once, at its end. A statement for each
would write each change of a row by itself: a report of a whole life would be six updates of its job instead of one.
"""

from __future__ import annotations

import time

from sqlalchemy import Text, column, func, select, values
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Event, Job, Unsettled

JOB_CHANNEL = "prominence_job"
NODE_CHANNEL = "prominence_node"
PLACING_CHANNEL = "prominence_placing"
ORDER_CHANNEL = "prominence_order"
SETTLING_CHANNEL = "prominence_settling"


_WOKEN = "prominence_woken"


def send(session: Session) -> None:
    """Wake whom this transaction wants to wake, as soon as it is committed; its last statement."""
    woken = session.info.pop(_WOKEN, None)
    if woken:
        listed = values(column("channel", Text), column("payload", Text), name="woken").data(sorted(woken))
        session.execute(select(func.pg_notify(listed.c.channel, listed.c.payload)))


def _wake(session: Session, channel: str, payload: str) -> None:
    session.info.setdefault(_WOKEN, set()).add((channel, payload))


def touch(session: Session, job: Job) -> None:
    """Give the job a new version and wake whoever watches it."""
    job.version += 1
    _wake(session, JOB_CHANNEL, str(job.id))


def wake_node(session: Session, node_id: int) -> None:
    """Wake a node's long-poll: there is something to start or to stop."""
    _wake(session, NODE_CHANNEL, str(node_id))


def answer_order(session: Session, job_id: int) -> None:
    """Wake whoever waits for an order to a job: it has written something, or ended."""
    _wake(session, ORDER_CHANNEL, str(job_id))


def ask_for_placing(session: Session) -> None:
    """Have an API server give out capacity as soon as this transaction is committed: some came back, or is wanted."""
    _wake(session, PLACING_CHANNEL, "0")


def ask_for_settling(session: Session, job: Job) -> None:
    """Have an API server see to what the end of a workflow's job means for the others, as soon as it is committed."""
    if job.workflow_id is not None:
        session.add(Unsettled(workflow_id=job.workflow_id))
        _wake(session, SETTLING_CHANNEL, "0")


def tell(session: Session, job: Job, kind: str, message: str, at: float | None = None) -> None:
    """Add a line to the job's story."""
    moment = time.time() if at is None else at
    session.add(Event(job_id=job.id, attempt=job.attempt, time=moment, kind=kind, message=message))
