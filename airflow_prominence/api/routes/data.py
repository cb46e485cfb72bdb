"""``/data``: users' uploads, and URLs for what jobs upload (``prominence.md`` 1.3). The bytes go by other URLs."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from airflow_prominence.api import staging
from airflow_prominence.api.auth import Caller, CallerDep
from airflow_prominence.api.body import read_object
from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.settings import settings
from airflow_prominence.objects import (
    UPLOAD_LIFETIME_S,
    BadKey,
    ObjectInfo,
    PutTarget,
    object_store,
)
from airflow_prominence.objects.keys import NotYourGroup, Place, check_key, folder_of, place_of
from airflow_prominence.store import uploadretention, uploads
from airflow_prominence.store.tables import Job

router = APIRouter(tags=["data"])

NO_NAME = "An object name must be specified"
NO_JOB_TOKEN = "A JWT token is required"  # noqa: S105 - what the contract says

_LARGEST_BODY = 64 * 1024
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

Text = Annotated[str | None, Query()]


@router.post("/data/upload", status_code=201, summary="Where to upload an object to")
@router.post("/data", status_code=201, include_in_schema=False)
async def upload(request: Request, caller: CallerDep, name: Text = None, checksum: Text = None) -> JSONResponse:
    """Return a URL to PUT the object's bytes to, or with ``fields`` to POST a form to, within ten minutes."""
    body = await read_object(request, _LARGEST_BODY)
    name = _text(body, "filename", name)
    checksum = _text(body, "checksum", checksum)
    if not name:
        raise ApiError(400, NO_NAME)
    if checksum and not _SHA256.fullmatch(checksum):
        raise ApiError(400, "checksum: must be a SHA-256 checksum, 64 hexadecimal digits")
    target = await run_in_threadpool(_announce, caller, name, checksum.lower() if checksum else None)
    return _target(target)


def _announce(caller: Caller, name: str, sha256: str | None) -> PutTarget:
    caller.require_act()
    key = _key(_place(caller, name), "filename")
    target = object_store().url_to_put(key, UPLOAD_LIFETIME_S, sha256)
    transact(lambda session: uploads.announce(session, key, caller.name, time.time()))
    return target


@router.post("/data/output", status_code=201, summary="Where a job uploads an output to")
async def output(request: Request, caller: CallerDep) -> JSONResponse:
    """Return a new URL for an output of the job whose token this is, for two hours."""
    if caller.only_job is None:
        raise ApiError(400, NO_JOB_TOKEN)
    body = await read_object(request, _LARGEST_BODY)
    name = _text(body, "name", None)
    if not name:
        raise ApiError(400, NO_NAME)
    return _target(await run_in_threadpool(_output, caller.only_job, name))


def _output(job_id: int, key: str) -> PutTarget:
    def uid(session: Session) -> str:
        return session.get_one(Job, job_id).uid

    return staging.place_of_output(transact(uid), key)


@router.get("/data", summary="List one's uploads")
def list_own(caller: CallerDep) -> list[dict[str, Any]]:
    """Return name, size in bytes and time of each of one's own uploads, and when it goes if no job uses it."""
    return _listed(caller, "")


@router.get("/data/{path:path}", summary="List a group's uploads")
def list_folder(path: str, caller: CallerDep) -> list[dict[str, Any]]:
    """Return the same of a group's folder, of one below it, or of one upload."""
    return _listed(caller, path)


@router.delete("/data", include_in_schema=False)
@router.delete("/data/{name:path}", status_code=204, summary="Delete an upload")
def remove(caller: CallerDep, name: str = "") -> Response:
    """Delete one of one's own uploads or a group's."""
    caller.require_act()
    if not name:
        raise ApiError(400, NO_NAME)
    store, key = object_store(), _key(_place(caller, name), "name")
    if store.stat(key) is None:
        raise ApiError(400, f"Object {name} does not exist")
    store.delete(key)
    transact(lambda session: uploads.note_deleted(session, key))
    return Response(status_code=204)


def _listed(caller: Caller, path: str) -> list[dict[str, Any]]:
    place = _folder(caller, path)
    folder = f"{place.folder}/{place.rest}" if place.rest else place.folder
    store = object_store()
    try:
        check_key(folder)
    except BadKey as bad:
        raise ApiError(400, f"path: {bad}") from None
    found = store.list(folder)
    if not found and place.rest:
        one = store.stat(folder)
        found = [] if one is None else [one]
    keys = [info.key for info in found]
    ends = transact(lambda session: uploadretention.kept_until(session, keys, settings().kept))
    return [_shown(place, info, ends.get(info.key)) for info in found]


def _folder(caller: Caller, path: str) -> Place:
    try:
        return folder_of(path, caller.name, caller.groups)
    except NotYourGroup as other:
        # Who lists a name of his own wants to see that one.
        if "/" not in path and _exists(_place(caller, path)):
            return _place(caller, path)
        raise ApiError(403, str(other)) from None


def _exists(place: Place) -> bool:
    try:
        return object_store().stat(place.key) is not None
    except BadKey:
        return False


def _shown(place: Place, info: ObjectInfo, until: float | None) -> dict[str, Any]:
    shown = {"name": place.name_of(info.key), "size": info.size, "lastModified": _moment(info.modified)}
    return shown if until is None else {**shown, "keptUntil": _moment(until)}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _place(caller: Caller, name: str) -> Place:
    try:
        return place_of(name, caller.name, caller.groups)
    except NotYourGroup as other:
        raise ApiError(403, str(other)) from None


def _key(place: Place, field: str) -> str:
    try:
        return place.key
    except BadKey as bad:
        raise ApiError(400, f"{field}: {bad}") from None


def _text(body: dict[str, Any], field: str, otherwise: str | None) -> str | None:
    value = body.get(field)
    if value is None:
        return otherwise
    if not isinstance(value, str):
        raise ApiError(400, f"{field}: must be a string")
    return value


def _target(target: PutTarget) -> JSONResponse:
    body: dict[str, Any] = {"url": target.url}
    if target.fields is not None:
        body["fields"] = dict(target.fields)
    return JSONResponse(body, status_code=201)
