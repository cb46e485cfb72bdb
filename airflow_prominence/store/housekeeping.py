"""What must happen though nobody asks for it: silence noticed, queue limits kept, waiting jobs placed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store import capacity, commands, letters
from airflow_prominence.store.nodes import lose_silent
from airflow_prominence.store.phases import DONE, FAILED, QUEUED, READY
from airflow_prominence.store.tables import Idempotency, Job, Uptime, UserToken
from airflow_prominence.store.transitions import QUEUED_TOO_LONG, finish, lock_job

#: Two beats further apart than this had an outage of ours between them, in seconds.
OUTAGE_S = 15.0

_LOCK = 0x70726F6D  # "prom": the advisory lock that makes one API server at a time the housekeeper
_IDEMPOTENCY_S = 7 * 86400
_DAY_S = 86400
_LETTERS_S = 30 * 86400


@dataclass(frozen=True)
class Done:
    """What one round did."""

    lost_nodes: tuple[str, ...] = ()
    overdue_jobs: tuple[int, ...] = ()
    placed_jobs: tuple[int, ...] = ()


def beat(session: Session, now: float) -> float:
    """Note that an API server is up; return since when one has been without a gap."""
    row = session.get(Uptime, 1, with_for_update=True)
    if row is None:
        session.execute(insert(Uptime).values(id=1, up_since=now, last_beat=now).on_conflict_do_nothing())
        return now
    if now - row.last_beat > OUTAGE_S:
        row.up_since = now
    row.last_beat = max(now, row.last_beat)
    return row.up_since


def round_of(session: Session, evict_after_s: float, grace_s: float) -> Done | None:
    """Do one round, or ``None`` while another API server does it."""
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
        return None
    now = time.time()
    up_since = beat(session, now)
    lost = lose_silent(session, now, up_since, evict_after_s, grace_s)
    overdue = _end_overdue(session, now)
    placed = capacity.place_waiting(session)
    return Done(tuple(lost), tuple(overdue), tuple(placed))


def _end_overdue(session: Session, now: float) -> list[int]:
    """Fail the jobs whose ``maximumTimeInQueue`` is over before they started running."""
    ids = session.scalars(select(Job.id).where(Job.phase.in_((QUEUED, READY)), Job.queue_until < now)).all()
    ended = []
    for job_id in ids:
        job = lock_job(session, job_id)
        if job is not None and job.phase in (QUEUED, READY):
            finish(session, job, FAILED, QUEUED_TOO_LONG, final=True)
            ended.append(job_id)
    return ended


def unfinished_runs(session: Session) -> list[tuple[str, str]]:
    """Return (DAG id, run id) of all runs that drive jobs which are not over, for the maintenance DAG to look at."""
    rows = session.execute(select(Job.dag_id, Job.run_id).where(Job.phase != DONE).distinct())
    return [(dag_id, run_id) for dag_id, run_id in rows]


def jobs_of_run(session: Session, dag_id: str, run_id: str) -> list[int]:
    """Return the ids of the jobs of a run that are not over."""
    query = select(Job.id).where(Job.dag_id == dag_id, Job.run_id == run_id, Job.phase != DONE)
    return list(session.scalars(query.order_by(Job.id)))


def forget_old(session: Session) -> None:
    """Drop idempotency keys after a week, tokens a day after they expired and letters a month after they left.

    What commands in jobs wrote goes as soon as nobody waits for it.
    """
    now = time.time()
    session.execute(delete(Idempotency).where(Idempotency.created_at < now - _IDEMPOTENCY_S))
    session.execute(delete(UserToken).where(UserToken.expires_at < now - _DAY_S))
    letters.forget(session, now - _LETTERS_S)
    commands.forget_old(session, now)
