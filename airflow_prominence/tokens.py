"""Bearer tokens that need no database: minted and checked with a key of their own per audience.

Every audience has its own key, derived from the deployment's secret, so that a token of one kind can never be
taken for another even if a check forgot to look at the ``aud`` claim.

Audiences (design, "Who does what"):

``prominence``
    a user's token; the API also wants its ``jti`` in the table of issued tokens, so that it can be revoked.
``prominence:job``
    one attempt of one job; held by that job's runner and given to its tasks as ``PROMINENCE_TOKEN``.
``prominence:node``
    one node's service.
``prominence:driver``
    the triggers; lives for a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

import jwt

USER = "prominence"
JOB = "prominence:job"
NODE = "prominence:node"
DRIVER = "prominence:driver"

AUDIENCES = (USER, JOB, NODE, DRIVER)

_ALGORITHM = "HS256"


class TokenRefused(Exception):
    """The bearer is not a valid token of the audience that was asked for; the text says why, without the bearer."""


def _key(audience: str, secret: str) -> bytes:
    if audience not in AUDIENCES:
        raise ValueError(f"unknown audience {audience!r}")
    if not secret:
        raise ValueError("the secret is empty: set [prominence] internal_secret or [api_auth] jwt_secret")
    return hmac.new(secret.encode(), f"airflow-prominence {audience} v1".encode(), hashlib.sha256).digest()


def mint(audience: str, claims: Mapping[str, Any], ttl_s: float, secret: str) -> str:
    """Return a signed token that is valid for ``ttl_s`` seconds; ``claims`` may not set ``aud``, ``iat`` or ``exp``."""
    reserved = {"aud", "iat", "exp"} & set(claims)
    if reserved:
        raise ValueError(f"claims may not set {', '.join(sorted(reserved))}")
    now = int(time.time())
    payload = {**claims, "aud": audience, "iat": now, "exp": now + int(ttl_s)}
    return jwt.encode(payload, _key(audience, secret), algorithm=_ALGORITHM)


def check(token: str, audience: str, secret: str) -> dict[str, Any]:
    """Return the claims; raise :class:`TokenRefused` if expired, of another audience or key, or ``alg: none``."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _key(audience, secret),
            algorithms=[_ALGORITHM],
            audience=audience,
            options={"require": ["exp", "iat", "aud"]},
        )
    except jwt.PyJWTError as refused:
        raise TokenRefused(str(refused)) from None
    return claims


def unverified_audience(token: str) -> str | None:
    """Return the audience that a token claims, to choose which check to make; never to be believed by itself."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        return None
    audience = claims.get("aud")
    return audience if isinstance(audience, str) else None
