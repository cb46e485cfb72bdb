"""The list of issued user tokens, by ``jti``: what makes them listable and revocable."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import UserToken


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


def issued(session: Session, owner: str | None) -> Sequence[UserToken]:
    """Return the tokens that are neither expired nor forgotten, of one owner or of all, newest first."""
    query = select(UserToken).order_by(UserToken.issued_at.desc())
    if owner is not None:
        query = query.where(UserToken.owner == owner)
    return session.scalars(query).all()
