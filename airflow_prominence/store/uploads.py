"""Who put what into the object store below ``uploads/``, for retention; the store itself knows what is there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Upload


def announce(session: Session, key: str, owner: str, now: float) -> None:
    """Note that ``owner`` was given a URL for this object; what is stored of it so far stays noted."""
    row = {"owner": owner, "created_at": now}
    query = insert(Upload).values(key=key, **row)
    session.execute(query.on_conflict_do_update(index_elements=[Upload.key], set_=row))


def note_stored(session: Session, key: str, sha256: str | None, at: float) -> None:
    """Note that an announced object is there; nobody needs to be warned of its end yet."""
    query = update(Upload).where(Upload.key == key).values(sha256=sha256, stored_at=at, warned_at=None)
    session.execute(query.execution_options(synchronize_session=False))


def note_used(session: Session, keys: Sequence[str], at: float) -> None:
    """Note that jobs need these objects: what is in use stays, and nobody needs to be warned of its end yet."""
    # In one order, or two submissions that name the same could wait for each other.
    found = session.scalars(select(Upload).where(Upload.key.in_(keys)).order_by(Upload.key).with_for_update())
    for upload in found:
        upload.used_at, upload.warned_at = max(at, upload.used_at or 0.0), None


def note_deleted(session: Session, key: str) -> None:
    """Note that an object is not there any more; the row goes when no URL can bring it back."""
    query = update(Upload).where(Upload.key == key).values(sha256=None, stored_at=None, warned_at=None)
    session.execute(query.execution_options(synchronize_session=False))


def forget(session: Session, key: str, before: float) -> None:
    """Drop the row of an object that nobody has stored, nor announced again, meanwhile."""
    query = delete(Upload).where(Upload.key == key, Upload.stored_at.is_(None), Upload.created_at < before)
    session.execute(query.execution_options(synchronize_session=False))


def unsettled(session: Session, before: float, limit: int = 1000) -> Sequence[str]:
    """Return keys that were announced before then, and of which nobody has told that they are stored."""
    query = select(Upload.key).where(Upload.stored_at.is_(None), Upload.created_at < before)
    return session.scalars(query.order_by(Upload.created_at).limit(limit)).all()
