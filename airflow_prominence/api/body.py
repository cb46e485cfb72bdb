"""Reading a request's body with a bound, before anything looks at it."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from airflow_prominence import documents
from airflow_prominence.api.errors import ApiError

_MB = 1024 * 1024


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, or refuse it as soon as it is known to be larger than ``limit`` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise ApiError(413, f"The request is larger than {limit / _MB:g} MB")
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise ApiError(413, f"The request is larger than {limit / _MB:g} MB")
        pieces.append(piece)
    return b"".join(pieces)


async def read_json(request: Request, limit: int) -> Any:
    """Return the body as JSON; refuses what is no JSON, has a key twice, NaN or absurd depth with one sentence."""
    return documents.loads(await read_body(request, limit))


async def read_object(request: Request, limit: int = 16 * _MB) -> dict[str, Any]:
    """Return the body of one of our own services: a JSON object; an empty body counts as an empty one."""
    raw = await read_body(request, limit)
    value = documents.loads(raw) if raw.strip() else {}
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object")
    return value
