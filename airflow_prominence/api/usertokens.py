"""Issuing, listing and revoking user tokens; what ``airflow prominence token`` calls."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_prominence import tokens
from airflow_prominence.api.database import transact
from airflow_prominence.api.settings import settings
from airflow_prominence.store import usertokens as store


@dataclass(frozen=True)
class IssuedToken:
    """An issued token as it may be shown: never the bearer; times are epoch seconds."""

    jti: str
    owner: str
    issued_at: float
    expires_at: float
    revoked_at: float | None


def issue(
    owner: str, groups: Sequence[str] = (), email: str | None = None, days: float | None = None
) -> tuple[str, str, float]:
    """Return a new bearer of a user, its ``jti`` and when it expires (epoch seconds)."""
    if not owner or len(owner) > 250:
        raise ValueError("a user's name has 1 to 250 characters")
    ttl_s = (settings().user_token_days if days is None else days) * 86400
    if ttl_s < 1:
        raise ValueError("a token must be valid for some time: give a positive number of days")
    jti = uuid.uuid4().hex
    claims = {"sub": owner, "jti": jti, "groups": list(groups), **({"email": email} if email else {})}
    expires_at = int(time.time()) + int(ttl_s)
    transact(lambda session: store.remember(session, jti, owner, expires_at))
    return tokens.mint(tokens.USER, claims, ttl_s, settings().secret), jti, expires_at


def revoke(jti: str) -> bool:
    """Revoke a token; ``False`` if there is none such."""
    return transact(lambda session: store.revoke(session, jti))


def revoke_all(owner: str) -> tuple[int, int]:
    """Revoke all tokens of a user; how many there were, and how many jobs of the user are not over.

    Those jobs' tokens may only store the jobs' outputs from now on.
    """
    return transact(lambda session: store.revoke_all(session, owner))


def list_tokens(owner: str | None = None) -> list[IssuedToken]:
    """Return the issued tokens of one user or of all, newest first."""
    return transact(
        lambda session: [
            IssuedToken(row.jti, row.owner, row.issued_at, row.expires_at, row.revoked_at)
            for row in store.issued(session, owner)
        ]
    )
