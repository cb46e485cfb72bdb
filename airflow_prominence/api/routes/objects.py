"""``/objects``: the local object store's bytes, for whoever holds a URL that was signed for this method and key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, BinaryIO
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.ranges import Span, Unsatisfiable, http_date, is_unchanged, range_holds, wanted_span
from airflow_prominence.api.settings import settings
from airflow_prominence.objects import (
    BadKey,
    ChecksumMismatch,
    KeyTaken,
    LocalStore,
    NoRoom,
    NoSuchObject,
    ObjectInfo,
    object_store,
)
from airflow_prominence.objects.incoming import Incoming
from airflow_prominence.objects.keys import UPLOADS
from airflow_prominence.objects.signing import SignatureRefused
from airflow_prominence.store import uploads

log = logging.getLogger(__name__)

router = APIRouter(tags=["objects"])

#: What starts so needs no bearer: its signature is looked at here.
SIGNED = "/objects/"

_PIECE = 1 << 20
#: Seconds without a byte after which an upload is given up.
_SILENCE_S = 120

Text = Annotated[str, Query()]


@router.get(SIGNED + "{key:path}", summary="An object, by a URL of ours")
@router.head(SIGNED + "{key:path}", include_in_schema=False)
async def get_object(key: str, request: Request, expires: Text = "", token: Text = "") -> Response:
    """Return an object's bytes, or the part that a ``Range`` asks for."""
    store = _signed("GET", key, expires, None, token)
    try:
        file = await run_in_threadpool(store.open_read, key)
    except NoSuchObject as missing:
        raise ApiError(404, str(missing)) from None
    try:
        info = store.info_of(key, file)
        return _answer(request, file, info)
    except BaseException:
        file.close()
        raise


def _answer(request: Request, file: BinaryIO, info: ObjectInfo) -> Response:
    etag = f'"{info.sha256 or f"{info.size:x}-{info.modified:x}"}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": http_date(info.modified),
        "Cache-Control": "private",
        # Whatever a user has uploaded is served from where Airflow's UI is: no browser shall run it.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(info.key.rsplit('/', 1)[-1], safe='')}",
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
        # Or Airflow's middleware compresses it, and nobody knows its length any more.
        "Content-Encoding": "identity",
    }
    if is_unchanged(request.headers, etag):
        file.close()
        return Response(status_code=304, headers=headers)
    span = None
    try:
        if range_holds(request.headers, etag, info.modified):
            span = wanted_span(request.headers.get("range"), info.size)
    except Unsatisfiable:
        file.close()
        return JSONResponse(
            {"error": f"The object has {info.size} bytes"},
            status_code=416,
            headers={"Content-Range": f"bytes */{info.size}"},
        )
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{info.size}"
    shown = span or Span(0, info.size)
    headers["Content-Length"] = str(shown.length)
    status = 200 if span is None else 206
    media_type = "application/octet-stream"
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_pieces(file, shown), status_code=status, headers=headers, media_type=media_type)


async def _pieces(file: BinaryIO, span: Span) -> AsyncIterator[bytes]:
    with file:
        await run_in_threadpool(file.seek, span.start)
        left = span.length
        while left:
            piece = await run_in_threadpool(file.read, min(left, _PIECE))
            if not piece:
                return
            left -= len(piece)
            yield piece


@router.put(SIGNED + "{key:path}", status_code=201, summary="Store an object, by a URL of ours")
async def put_object(
    key: str,
    request: Request,
    expires: Text = "",
    token: Text = "",
    sha256: Annotated[str | None, Query()] = None,
) -> JSONResponse:
    """Store the body as the object, whole and with the signed checksum, or not at all."""
    store = _signed("PUT", key, expires, sha256, token)
    if "content-range" in request.headers:
        raise ApiError(400, "Content-Range: an object is stored as a whole")
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdigit() else 0
    _check_size(size)
    try:
        with await run_in_threadpool(store.receive, key, size) as incoming:
            await _fill(incoming, request)
            info = await run_in_threadpool(incoming.keep, sha256)
    except NoRoom as full:
        raise ApiError(507, str(full)) from None
    except ChecksumMismatch as wrong:
        raise ApiError(400, str(wrong)) from None
    except KeyTaken as taken:
        raise ApiError(409, str(taken)) from None
    except ClientDisconnect:
        log.info("an upload of %s broke off; nothing of it is kept", key)
        raise ApiError(400, "The upload broke off") from None
    await _note(info)
    return JSONResponse({"size": info.size, "sha256": info.sha256}, status_code=201)


async def _note(info: ObjectInfo) -> None:
    if not info.key.startswith(UPLOADS + "/"):
        return
    try:
        await transact_async(lambda session: uploads.note_stored(session, info.key, info.sha256, info.modified))
    except DatabaseGone as gone:
        # The object is there; maintenance finds it when the database is back.
        log.warning("an upload could not be noted yet: %s", gone)


async def _fill(incoming: Incoming, request: Request) -> None:
    behind = _Behind(incoming)
    pieces: list[bytes] = []
    waiting = 0
    try:
        with anyio.move_on_after(_SILENCE_S) as patience:
            async with aclosing(request.stream()) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    waiting += len(piece)
                    if waiting >= _PIECE:
                        _check_size(behind.size + waiting)
                        await behind.write(b"".join(pieces))
                        pieces, waiting = [], 0
                    # Only the client's silence counts, not the disk's.
                    patience.deadline = anyio.current_time() + _SILENCE_S
        if patience.cancelled_caught:
            raise ApiError(408, f"Nothing came for {_SILENCE_S} s: the upload is given up")
        _check_size(behind.size + waiting)
        await behind.write(b"".join(pieces))
    finally:
        await behind.done()


class _Behind:
    """Writes one piece in a thread while the next one arrives: both take their time, most of it for the checksum."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._writing: asyncio.Task[None] | None = None
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Begin to write; raise what the piece before has come to."""
        await self.done()
        self.size += len(data)
        self._writing = asyncio.create_task(run_in_threadpool(self._incoming.write, data))

    async def done(self) -> None:
        """Wait until nothing is being written: before that nobody may close the file, not even who is cancelled."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with anyio.CancelScope(shield=True):
                await writing


def _check_size(size: int) -> None:
    if size > settings().max_upload:
        raise ApiError(413, f"An upload cannot be larger than {settings().max_upload >> 20} MB")


def _signed(method: str, key: str, expires: str, sha256: str | None, signature: str) -> LocalStore:
    store = object_store()
    if not isinstance(store, LocalStore):
        raise ApiError(400, "Objects are not kept here")
    try:
        store.signer.check(method, key, expires, sha256, signature)
    except SignatureRefused as refused:
        raise ApiError(403, str(refused)) from None
    except BadKey as bad:
        raise ApiError(403, f"The object's name {bad}") from None
    return store
