"""``/kv``: small values under keys of one's own (``prominence.md`` 1.4); a job's token reaches its owner's."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from airflow_prominence.api.auth import Caller, CallerDep
from airflow_prominence.api.body import read_body
from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.store import kv

router = APIRouter(tags=["key-value store"])

#: In bytes, as PostgreSQL counts what fits in the index; the column's 1024 characters could be too many of them.
LONGEST_KEY = 1024
LARGEST_VALUE = 16 * 1024

NO_KEY = "Key not specified"
NOT_SWAPPED = "Atomic replacement not successful"

Text = Annotated[str | None, Query()]
Listed = Annotated[str | None, Query(alias="list")]


@router.get("/kv", summary="List one's keys")
def list_keys(caller: CallerDep, listed: Listed = None, values: Text = None) -> Response:
    """Return all keys with ``list``, and their values with ``values``."""
    return _read(caller, "", listed, values)


@router.get("/kv/{key:path}", summary="Value of a key, or the keys of a prefix")
def read_key(key: str, caller: CallerDep, listed: Listed = None, values: Text = None) -> Response:
    """Return the raw value, or with ``list`` the keys that start so, and their values with ``values``."""
    return _read(caller, key, listed, values)


@router.post("/kv", include_in_schema=False)
@router.post("/kv/{key:path}", status_code=201, summary="Set the value of a key")
async def set_key(request: Request, caller: CallerDep, key: str = "", prev: Text = None) -> JSONResponse:
    """Store the body; with ``prev`` only if that is the present value, with an empty one only if there is none."""
    key = _key(key)
    try:
        value = await read_body(request, LARGEST_VALUE)
    except ApiError:
        raise ApiError(400, "Content of value too large") from None
    if not value:
        raise ApiError(400, "No value provided")
    # A value may be any bytes, which the parameter as text would not give back.
    old = None if prev is None else _raw_parameter(request, "prev")

    def work(session: Session) -> bool:
        if old is None:
            kv.put(session, caller.name, key, value)
            return True
        # No stored value is empty, so an empty one can only mean that there was none.
        if not old:
            return kv.create(session, caller.name, key, value)
        return kv.swap(session, caller.name, key, old, value)

    def store() -> bool:
        caller.require_act()
        return transact(work)

    if not await run_in_threadpool(store):
        raise ApiError(400, NOT_SWAPPED)
    return JSONResponse({}, status_code=201)


@router.delete("/kv", include_in_schema=False)
@router.delete("/kv/{key:path}", summary="Delete a key, or all keys of a prefix")
def delete_key(caller: CallerDep, key: str = "", prefix: Text = None) -> JSONResponse:
    """Delete the key, with ``prefix`` all that start so; it is no error if there is none."""
    caller.require_act()
    if prefix is None:
        one = _key(key)
        transact(lambda session: kv.remove(session, caller.name, one))
    else:
        start = _prefix(key)
        transact(lambda session: kv.remove_all(session, caller.name, start))
    return JSONResponse({})


def _read(caller: Caller, key: str, listed: str | None, values: str | None) -> Response:
    if listed is None:
        one = _key(key)
        value = transact(lambda session: kv.get(session, caller.name, one))
        if value is None:
            raise ApiError(404, "No such key")
        return Response(value, media_type="text/plain; charset=utf-8")
    start = _prefix(key)
    if values is None:
        return JSONResponse([f"/{found}" for found in transact(lambda s: kv.keys(s, caller.name, start))])
    # JSON has no bytes; who stores what is no text reads it key by key.
    items = transact(lambda session: kv.items(session, caller.name, start))
    return JSONResponse([{f"/{found}": value.decode(errors="replace")} for found, value in items])


def _key(text: str) -> str:
    key = _prefix(text)
    if not key:
        raise ApiError(400, NO_KEY)
    return key


def _prefix(text: str) -> str:
    # The client takes a leading slash off for list and delete, but not for get and set.
    key = text.lstrip("/")
    if "\0" in key:
        raise ApiError(400, "A key cannot hold a NUL character")
    if len(key.encode()) > LONGEST_KEY:
        raise ApiError(400, f"A key cannot be longer than {LONGEST_KEY} bytes")
    return key


def _raw_parameter(request: Request, name: str) -> bytes:
    # Latin-1 there and back keeps every byte. The last one counts, as for FastAPI.
    query: bytes = request.scope["query_string"]
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    return dict(pairs)[name].encode("latin-1")
