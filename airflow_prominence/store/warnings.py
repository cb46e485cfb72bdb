"""Warnings before something of a job is removed: one letter a day to each user who asked for letters, about all."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, TextClause, and_, exists, false, func, not_, or_, select, text, update
from sqlalchemy.orm import Session, aliased

from airflow_prominence.store import letters
from airflow_prominence.store.phases import DONE
from airflow_prominence.store.retention import DAY_S, Retention, has_outputs
from airflow_prominence.store.tables import WANTS_LETTERS, Job

_LISTED = 50
_MOST_AT_ONCE = 2000


def warn(session: Session, keep: Retention, now: float, most: int) -> int:
    """Write at most ``most`` letters to users of whose jobs something will be removed soon.

    A job is warned of once, with the days of all that is kept of it. Who was warned today is not warned again: what
    nears its end within the next day is told of today, and nothing is removed without its warning. Returns how many.
    """
    if not keep.warn_days:
        return 0
    other = aliased(Job)
    told_today = exists().where(other.owner == Job.owner, other.warned_at > now - DAY_S)
    near = select(Job.owner, Job.email).where(*_nearing(keep, now), ~told_today).distinct().limit(most)
    written = 0
    for owner, email in session.execute(near).all():
        written += _warn_one(session, owner, str(email), keep, now)
    return written


def _warn_one(session: Session, owner: str, email: str, keep: Retention, now: float) -> bool:
    ids = session.scalars(
        select(Job.id)
        .where(Job.owner == owner, Job.email == email, *_nearing(keep, now + DAY_S))
        .order_by(Job.id)
        .limit(_MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    if not ids:
        return False
    session.execute(
        update(Job).where(Job.id.in_(ids)).values(warned_at=now).execution_options(synchronize_session=False)
    )
    first = session.scalars(select(Job).where(Job.id.in_(ids[:_LISTED])).order_by(Job.id)).all()
    letters.write(session, email, *_letter(first, len(ids), keep))
    return True


def _nearing(keep: Retention, now: float) -> list[ColumnElement[bool] | TextClause]:
    """Conditions of a finished job of which its owner is to be told that something nears its end."""

    def near(days: float, *more: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        if not days:
            return []
        return [and_(Job.ended_at <= now - days * DAY_S + keep.lead_s(days), *more)]

    ends = [
        *near(keep.stdout_days, Job.started_at.is_not(None), Job.stdout_gone_at.is_(None)),
        *near(keep.outputs_days, Job.outputs_gone_at.is_(None), _asks_for_outputs()),
        *near(keep.jobs_days),
    ]
    return [Job.phase == DONE, Job.warned_at.is_(None), text(WANTS_LETTERS), or_(*ends)]


def _asks_for_outputs() -> ColumnElement[bool]:
    """As :func:`retention.has_outputs`, by the database."""
    sizes = [func.coalesce(func.json_array_length(Job.document[key]), 0) for key in ("outputFiles", "outputDirs")]
    elsewhere = func.coalesce(Job.document[("storage", "default")].as_boolean(), false())
    return and_(sizes[0] + sizes[1] > 0, not_(elsewhere))


def _letter(jobs: Sequence[Job], count: int, keep: Retention) -> tuple[str, str]:
    what = f"job {jobs[0].id}" if count == 1 else f"{count} jobs"
    lines = [f"Something of {what} of yours will be removed soon:", ""]
    lines += [_line(job, keep) for job in jobs]
    if count > len(jobs):
        lines.append(f"  and of {count - len(jobs)} more: prominence list --completed --last -1")
    lines += ["", "What you want to keep, fetch before: prominence stdout ID, prominence download ID"]
    return f"PROMINENCE: something of {what} will be removed soon", "\n".join(lines) + "\n"


def _line(job: Job, keep: Retention) -> str:
    name = letters.one_line(job.name, 60)
    parts = []
    if job.started_at is not None and job.stdout_gone_at is None:
        parts.append(("standard output", keep.until(job, keep.stdout_days)))
    if has_outputs(job) and job.outputs_gone_at is None:
        parts.append(("output files", keep.until(job, keep.outputs_days)))
    parts.append(("its description", keep.until(job, keep.jobs_days)))
    told = ", ".join(f"{what} on {letters.day(at)}" for what, at in parts if at is not None)
    return f"  {job.id}{f' {name}' if name else ''}: {told}"
