"""How long uploads are kept: for some days after they were stored or a job last named them, never without a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from sqlalchemy import ColumnElement, exists, func, or_, select, text, update
from sqlalchemy.orm import Session

from airflow_prominence.store import letters
from airflow_prominence.store.phases import DONE
from airflow_prominence.store.retention import DAY_S, Retention
from airflow_prominence.store.tables import WANTS_LETTERS, Job, Upload

_LISTED = 50


@dataclass(frozen=True)
class Needed:
    """The names in an active job's document that may be uploads of its owner or his groups."""

    owner: str
    groups: tuple[str, ...]
    names: tuple[str, ...]


def due(session: Session, keep: Retention, now: float, limit: int) -> Sequence[str]:
    """Return at most ``limit`` keys of uploads that are over their time, the oldest first."""
    if not keep.uploads_days:
        return ()
    over = _last_use() <= now - keep.uploads_days * DAY_S
    warned = or_(Upload.warned_at <= now - keep.lead_s(keep.uploads_days), ~_owner_wants_letters())
    query = select(Upload.key).where(over, *([warned] if keep.warn_days else []))
    return session.scalars(query.order_by(_last_use()).limit(limit)).all()


def needed_by_active_jobs(session: Session) -> Iterator[Needed]:
    """Yield what active jobs name that could be uploads."""
    # Not whole documents: their inputs can be large.
    columns = (Job.owner, Job.owner_groups, Job.document["artifacts"], Job.tasks)
    for owner, groups, artifacts, tasks in session.execute(select(*columns).where(Job.phase != DONE)):
        names = [artifact["url"] for artifact in artifacts or ()] + [task["image"] for task in tasks]
        yield Needed(owner, tuple(groups), tuple(name for name in names if "://" not in name))


def remove(session: Session, key: str, keep: Retention, now: float, delete: Callable[[str], None]) -> bool:
    """Delete an upload, if it is still time; its row is locked meanwhile, so that no job begins to use it."""
    upload = session.get(Upload, key, with_for_update=True, populate_existing=True)
    if upload is None or upload.stored_at is None:
        return False
    if max(upload.stored_at, upload.used_at or 0.0) > now - keep.uploads_days * DAY_S:
        return False
    delete(key)
    session.delete(upload)
    return True


def until(upload: Upload, keep: Retention) -> float | None:
    """Return when an upload goes if nobody uses it (epoch seconds), ``None`` if it is kept for ever."""
    if not keep.uploads_days or upload.stored_at is None:
        return None
    end = max(upload.stored_at, upload.used_at or 0.0) + keep.uploads_days * DAY_S
    if upload.warned_at is None:
        return end
    return max(end, upload.warned_at + keep.lead_s(keep.uploads_days))


def kept_until(session: Session, keys: Sequence[str], keep: Retention) -> dict[str, float]:
    """Return when each of these uploads goes that does not stay for ever (epoch seconds)."""
    found = session.scalars(select(Upload).where(Upload.key.in_(keys)))
    ends = {upload.key: until(upload, keep) for upload in found}
    return {key: end for key, end in ends.items() if end is not None}


def warn(session: Session, keep: Retention, now: float, most: int) -> int:
    """Write at most ``most`` letters to owners of uploads that go soon and who asked for letters about a job.

    As for jobs, nobody is warned twice a day. Returns how many were written.
    """
    if not keep.uploads_days or not keep.warn_days:
        return 0
    near = now - keep.uploads_days * DAY_S + keep.lead_s(keep.uploads_days)
    told = select(Upload.owner).where(Upload.warned_at > now - DAY_S)
    owners = session.scalars(
        select(Upload.owner)
        .where(Upload.warned_at.is_(None), _last_use() <= near, _owner_wants_letters(), Upload.owner.not_in(told))
        .distinct()
        .limit(most)
    ).all()
    return sum(_warn_one(session, owner, keep, near + DAY_S, now) for owner in owners)


def _warn_one(session: Session, owner: str, keep: Retention, near: float, now: float) -> bool:
    uploads = session.scalars(
        select(Upload)
        .where(Upload.owner == owner, Upload.warned_at.is_(None), _last_use() <= near)
        .order_by(Upload.key)
        .with_for_update(skip_locked=True)
    ).all()
    email = session.scalar(
        select(Job.email).where(Job.owner == owner, text(WANTS_LETTERS)).order_by(Job.id.desc()).limit(1)
    )
    if not uploads or email is None:
        return False
    session.execute(
        update(Upload)
        .where(Upload.key.in_([upload.key for upload in uploads]))
        .values(warned_at=now)
        .execution_options(synchronize_session="fetch")
    )
    what = "An upload" if len(uploads) == 1 else f"{len(uploads)} uploads"
    lines = [f"  {letters.one_line(_name(upload.key), 200)}: {_day(upload, keep)}" for upload in uploads[:_LISTED]]
    if len(uploads) > _LISTED:
        lines.append(f"  and {len(uploads) - _LISTED} more: prominence ls")
    body = (
        f"{what} of yours will be removed, since no job has used it for a long time:\n\n"
        + "\n".join(lines)
        + "\n\nA job that uses it, or uploading it again, keeps it.\n"
    )
    letters.write(session, email, f"PROMINENCE: {what[0].lower()}{what[1:]} of yours will be removed soon", body)
    return True


def _name(key: str) -> str:
    """A key as its owner writes it: the plain name of his own, ``group/name`` of a group's."""
    _, folder, rest = key.split("/", 2)
    return f"{unquote(folder[1:])}/{rest}" if folder.startswith("@") else rest


def _day(upload: Upload, keep: Retention) -> str:
    end = until(upload, keep)
    return letters.day(end) if end is not None else "never"


def _last_use() -> ColumnElement[Any]:
    # NULL where nothing is stored: an announced object that never came is nobody's to keep.
    return func.greatest(Upload.stored_at, func.coalesce(Upload.used_at, Upload.stored_at))


def _owner_wants_letters() -> ColumnElement[bool]:
    return exists().where(Job.owner == Upload.owner, text(WANTS_LETTERS))
