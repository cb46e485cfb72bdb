"""Login of the client: its routes at our address, without a bearer, since a token is what they are for."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from airflow_prominence.api import login
from airflow_prominence.api.body import read_body, read_object
from airflow_prominence.api.errors import ApiError

PUBLIC_POSTS = frozenset({"/register", "/devicecode", "/token"})

router = APIRouter(tags=["login"])

_LIMIT = 64 * 1024


@router.post("/register", status_code=201, summary="Register a client with the OpenID Connect issuer")
async def register(request: Request) -> JSONResponse:
    """Return the ``client_id`` and ``client_secret`` with which to log in."""
    name = (await read_object(request, _LIMIT)).get("client_name", "prominence-user")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise ApiError(400, "client_name: must be a text of 1 to 200 characters")
    return _passed_on(await login.register(name))


@router.post("/devicecode", summary="Begin a login")
async def device_code(request: Request) -> JSONResponse:
    """Return where the user agrees in a browser, the code to enter there and the ``device_code`` for us (RFC 8628)."""
    return _passed_on(await login.device_code(await _form(request), request.headers.get("authorization")))


@router.post("/token", summary="Get the token of a login")
async def token(request: Request) -> JSONResponse:
    """Return the ``access_token``, or 400 with ``authorization_pending`` until the user has agreed."""
    return _passed_on(await login.token(await _form(request), request.headers.get("authorization")))


async def _form(request: Request) -> dict[str, str]:
    body = await read_body(request, _LIMIT)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise ApiError(400, "The body must be a form (application/x-www-form-urlencoded)") from None


def _passed_on(answer: tuple[int, Any]) -> JSONResponse:
    status, told = answer
    # As RFC 6749 asks of whoever hands out tokens.
    return JSONResponse(told, status_code=status, headers={"Cache-Control": "no-store"})
