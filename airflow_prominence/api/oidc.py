"""Access tokens of a configured OpenID Connect issuer, checked against the keys it publishes."""

from __future__ import annotations

import functools
import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import jwt

from airflow_prominence.api.settings import OidcSettings, settings

#: Signatures by the issuer's private key only: a symmetric algorithm would let its public key sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_TIMEOUT_S = 10.0
_KEYS_S = 300.0


class OidcRefused(Exception):
    """The token is not a valid one of the configured issuer; the text says why."""


class IssuerUnreachable(Exception):
    """The issuer's keys are needed and cannot be had at the moment."""


@dataclass(frozen=True)
class OidcUser:
    """Who a token says its bearer is."""

    name: str
    groups: tuple[str, ...]
    email: str | None


def is_ours(bearer: str) -> bool:
    """Tell whether the token claims to come from the configured issuer; not to be believed by itself."""
    oidc = settings().oidc
    if oidc is None:
        return False
    try:
        claims = jwt.decode(bearer, options={"verify_signature": False})
    except jwt.PyJWTError:
        return False
    return bool(claims.get("iss") == oidc.issuer)


def check(bearer: str) -> OidcUser:
    """Return the user of a token; blocking, since it may have to fetch the issuer's keys.

    Raises :class:`OidcRefused`, or :class:`IssuerUnreachable` if the keys are not known yet and can't be fetched.
    """
    oidc = settings().oidc
    if oidc is None:
        raise OidcRefused("no issuer is configured")
    try:
        key = _keys(str(discover(oidc.issuer)["jwks_uri"])).get_signing_key_from_jwt(bearer)
        claims: dict[str, Any] = jwt.decode(
            bearer,
            key.key,
            algorithms=list(ALGORITHMS),
            issuer=oidc.issuer,
            audience=oidc.audience,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.PyJWKClientConnectionError as error:
        raise IssuerUnreachable(str(error)) from None
    except jwt.PyJWTError as error:
        raise OidcRefused(str(error)) from None
    return _user(claims, oidc)


def _user(claims: dict[str, Any], oidc: OidcSettings) -> OidcUser:
    for claim in (oidc.username_claim, "sub", "preferred_username"):
        name = claims.get(claim) if claim else None
        if isinstance(name, str) and name.strip():
            break
    else:
        raise OidcRefused("the token names no user")
    if len(name) > 250:
        raise OidcRefused("the token's user name is longer than 250 characters")
    groups = claims.get(oidc.groups_claim, [])
    if isinstance(groups, str):
        groups = groups.split(",")
    if not isinstance(groups, list):
        groups = []
    found = tuple(str(group) for group in groups)
    if oidc.required_group and oidc.required_group not in found:
        raise OidcRefused(f"the user is not in group {oidc.required_group}")
    email = claims.get("email")
    return OidcUser(name, found, email if isinstance(email, str) else None)


_lock = threading.Lock()


def discover(issuer: str) -> dict[str, Any]:
    """Return what the issuer says of itself (OpenID Connect Discovery); blocking, asked once.

    Raises :class:`IssuerUnreachable`, or :class:`OidcRefused` if it calls itself otherwise.
    """
    # One at a time asks, so that a burst of first requests is one fetch.
    with _lock:
        return _discovered(issuer)


@functools.lru_cache(maxsize=4)
def _discovered(issuer: str) -> dict[str, Any]:
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - an admin's own setting
            document: dict[str, Any] = json.load(answer)
        if not document["jwks_uri"] or document["issuer"] != issuer:
            raise OidcRefused(f"the issuer calls itself {document['issuer']!r}")
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as error:
        raise IssuerUnreachable(f"{url}: {error}") from None
    return document


@functools.lru_cache(maxsize=4)
def _keys(keys_url: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(keys_url, lifespan=_KEYS_S, timeout=_TIMEOUT_S)
