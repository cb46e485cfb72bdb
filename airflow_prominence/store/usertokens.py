"""The list of issued user tokens, by ``jti``: what makes them listable and revocable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store.phases import DONE
from airflow_prominence.store.tables import Job, TokenCutoff, UserToken, id_sequence


def remember(session: Session, jti: str, owner: str, expires_at: float) -> None:
    """Note an issued token; the bearer itself is not stored."""
    session.add(UserToken(jti=jti, owner=owner, issued_at=time.time(), expires_at=expires_at))


def is_valid(session: Session, jti: str, owner: str) -> bool:
    """Tell whether this token was issued to this owner and is not revoked."""
    row = session.get(UserToken, jti)
    return row is not None and row.owner == owner and row.revoked_at is None


def revoke(session: Session, jti: str) -> bool:
    """Revoke a token; ``False`` if none with this ``jti`` was issued."""
    row = session.get(UserToken, jti)
    if row is None:
        return False
    if row.revoked_at is None:
        row.revoked_at = time.time()
    return True


def hold(session: Session, owner: str) -> None:
    """Let nobody revoke all of a user's tokens until this transaction is over: what it looks at now stays so."""
    session.execute(select(func.pg_advisory_xact_lock_shared(_lock_of(owner))))


def revoke_all(session: Session, owner: str) -> tuple[int, int]:
    """Revoke a user's tokens, and end the powers of those of all jobs that the user has submitted until now.

    Returns how many tokens were revoked, and how many of the jobs are not over yet.
    """
    # Whoever is submitting a job at this moment, and looked whether he may, comes first: then that one counts, too.
    session.execute(select(func.pg_advisory_xact_lock(_lock_of(owner))))
    now = time.time()
    valid = (UserToken.owner == owner, UserToken.revoked_at.is_(None), UserToken.expires_at > now)
    jtis = session.scalars(update(UserToken).where(*valid).values(revoked_at=now).returning(UserToken.jti)).all()
    last_id = session.execute(select(id_sequence.next_value())).scalar_one()
    statement = insert(TokenCutoff).values(owner=owner, last_id=last_id, at=now)
    values = {"last_id": last_id, "at": now}
    session.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=values))
    alive = select(func.count()).select_from(Job).where(Job.owner == owner, Job.phase != DONE)
    return len(jtis), int(session.scalar(alive) or 0)


def may_only_store(session: Session, owner: str, job_id: int) -> bool:
    """Tell whether all of a user's tokens were revoked after this job was submitted."""
    cutoff = session.get(TokenCutoff, owner)
    return cutoff is not None and job_id <= cutoff.last_id


def _lock_of(owner: str) -> Any:
    return func.hashtextextended(f"prominence tokens {owner}", 0)


def issued(session: Session, owner: str | None) -> Sequence[UserToken]:
    """Return the tokens that are neither expired nor forgotten, of one owner or of all, newest first."""
    query = select(UserToken).order_by(UserToken.issued_at.desc())
    if owner is not None:
        query = query.where(UserToken.owner == owner)
    return session.scalars(query).all()
