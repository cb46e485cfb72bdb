"""The client's login at the configured issuer: what `prominence register` and `login` say, passed on and back.

The client knows no issuer, only us, and what it says fits few issuers as it is: it registers for a flow that it never
uses and asks for no groups. So its requests are made anew, from what is needed of them.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
from starlette.concurrency import run_in_threadpool

from airflow_prominence.api import oidc
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.settings import OidcSettings, settings

log = logging.getLogger(__name__)

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

# The client gives up after 10 s, and would not hear why.
_TIMEOUT_S = 8.0


async def register(client_name: str) -> tuple[int, Any]:
    """Register a client for the device flow; the issuer's status and answer.

    Where the settings name a client for everybody, nothing is asked and the answer holds a secret that opens nothing.
    """
    configured = _configured()
    if configured.client_id:
        return 201, {"client_id": configured.client_id, "client_secret": secrets.token_urlsafe(16)}
    asked = {
        "client_name": client_name,
        "grant_types": [DEVICE_GRANT],
        "response_types": [],
        "redirect_uris": [],
        "token_endpoint_auth_method": "client_secret_basic",
    }
    url = await _endpoint(configured, "registration_endpoint", "lets nobody register a client")
    return await _post(url, json=asked)


async def device_code(form: Mapping[str, str], authorization: str | None) -> tuple[int, Any]:
    """Begin a device flow; the issuer's status and answer."""
    configured = _configured()
    asked = {"scope": form.get("scope") or "openid profile email"}
    url = await _endpoint(configured, "device_authorization_endpoint", "has no login for command lines (device flow)")
    return await _as_client(configured, url, asked, form, authorization)


async def token(form: Mapping[str, str], authorization: str | None) -> tuple[int, Any]:
    """Ask whether the user has agreed, or for a new token by a refresh token; the issuer's status and answer."""
    configured = _configured()
    grant = form.get("grant_type", "")
    needed = {DEVICE_GRANT: "device_code", "refresh_token": "refresh_token"}.get(grant)
    if needed is None:
        raise ApiError(400, f"grant_type: must be {DEVICE_GRANT} or refresh_token")
    if not form.get(needed):
        raise ApiError(400, f"{needed}: must be given")
    url = await _endpoint(configured, "token_endpoint", "has no token endpoint")
    status, answer = await _as_client(configured, url, {"grant_type": grant, needed: form[needed]}, form, authorization)
    if status == 200:
        await run_in_threadpool(_check, str(answer.get("access_token", "")))
    return status, answer


def _check(access_token: str) -> None:
    # The client says nothing but "authentication failed" of a token that we refuse later: the admin has to see it here.
    try:
        oidc.check(access_token)
    except oidc.OidcRefused as refused:
        log.warning(
            "the issuer has just given a user a token that is refused here: %s; see [prominence] oidc_audience, "
            "oidc_required_group and oidc_login_parameters",
            refused,
        )
    except oidc.IssuerUnreachable as unreachable:
        log.warning("the OIDC issuer cannot be reached: %s", unreachable)


def _configured() -> OidcSettings:
    configured = settings().oidc
    if configured is None:
        raise ApiError(400, "No OpenID Connect issuer is configured here: ask the service's admin for a token")
    return configured


async def _endpoint(configured: OidcSettings, name: str, lacking: str) -> str:
    try:
        document = await run_in_threadpool(oidc.discover, configured.issuer)
    except (oidc.IssuerUnreachable, oidc.OidcRefused) as error:
        log.warning("the OIDC issuer cannot be used: %s", error)
        raise ApiError(503, "Unable to connect to OIDC server") from None
    url = document.get(name)
    if not isinstance(url, str):
        raise ApiError(400, f"The OIDC issuer {lacking}")
    return url


async def _as_client(
    configured: OidcSettings, url: str, asked: dict[str, str], form: Mapping[str, str], authorization: str | None
) -> tuple[int, Any]:
    """POST a form in the name of the user's client, or of the one that the settings name."""
    if configured.client_id:
        client_id, authorization = configured.client_id, None
        if configured.client_secret:
            # Each part is form-encoded first (RFC 6749, 2.3.1).
            pair = f"{quote(client_id, safe='')}:{quote(configured.client_secret, safe='')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        client_id = form.get("client_id", "")
    asked = {**asked, **({"client_id": client_id} if client_id else {}), **dict(configured.login_parameters)}
    return await _post(url, data=asked, headers={"Authorization": authorization} if authorization else {})


async def _post(url: str, **request: Any) -> tuple[int, Any]:
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as http:
            answer = await http.post(url, **request)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        # By kind only: an exception's text may quote what was sent.
        log.warning("the OIDC issuer does not answer at %s: %s", url, type(error).__name__)
        raise ApiError(503, "Unable to connect to OIDC server") from None
    if answer.status_code >= 500 or answer.is_redirect or not isinstance(told, dict):
        log.warning("the OIDC issuer failed at %s with status %d", url, answer.status_code)
        raise ApiError(503, "The OIDC server failed, please try again")
    return answer.status_code, told
