"""``/jobs/{id}/exec`` and ``/snapshot``: commands in running jobs, and archives of their files (``prominence.md`` 1.1).

The contract says failure by the status, so an answer's beginning waits for the end of a command that ends soon. One
that takes longer is streamed; how it failed is then its last line.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from airflow_prominence import documents
from airflow_prominence.api.auth import Caller, CallerDep
from airflow_prominence.api.body import read_object
from airflow_prominence.api.database import DatabaseGone, transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.hub import hub
from airflow_prominence.api.live import RESTARTING, Following
from airflow_prominence.api.routes.jobs import NO_JOB, find_own
from airflow_prominence.api.settings import settings
from airflow_prominence.objects import SNAPSHOT_LIFETIME_S, object_store, snapshot_key
from airflow_prominence.store import commands
from airflow_prominence.store.commands import Look, Order
from airflow_prominence.store.tables import Job

router = APIRouter(tags=["jobs"])

UNABLE = "Unable to execute command"
NO_COMMAND = "A command to execute must be specified"
NO_PATH = "A path to snapshot must be specified"
BAD_PATH = "Invalid path"
NO_SNAPSHOT = "No snapshot of this job was created yet"

_HOME = "/home/user"
_TMP = "/tmp"  # noqa: S108 - the container's
#: An answer is begun so long after a command has first written something, or when it has written so much (s, bytes).
_WRITTEN_S = 2.0
_HELD = 256 * 1024
#: A snapshot's answer is begun after so long, and then says something each so often; the client waits for 150 s (s).
_QUIET_S = 60.0
_LONGEST = 64 * 1024
_LONGEST_PATH = 4096
_COMMA = re.compile(r"(?<!\\),")
_LAST_LINE = 300

#: Airflow's middleware would compress the answer, and hold back what is meant to be seen at once.
_LIVE = {"Content-Encoding": "identity", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Text = Annotated[str | None, Query()]


@router.post("/jobs/{job_id}/exec", summary="Run a command in a running job")
async def execute(job_id: str, request: Request, caller: CallerDep, command: Text = None) -> Response:
    """Run a command inside of the container of the task that runs now and return what it writes to both streams.

    ``command`` is its words joined by commas, of which one in a word is written ``\\,``; or the body is
    ``{"command": [word, …]}``. It starts in the job's folder and may take a limited time.
    """
    argv = await _argv(request, command)
    number = await run_in_threadpool(_own, job_id, caller)
    order = Order(commands.EXEC, settings().exec_timeout_s, settings().exec_limit, {"argv": argv})
    following = await Following.give(number, order)
    await following.hold(request, quiet_s=float("inf"), written_s=_WRITTEN_S, most=_HELD)
    if following.end is None:
        return StreamingResponse(_stream(following), media_type="text/plain; charset=utf-8", headers=_LIVE)
    await following.leave()
    output = b"".join(following.held)
    failure = _failure(following.end)
    if failure is None:
        return Response(output, media_type="text/plain; charset=utf-8", headers=_LIVE)
    return _failed(following.end, failure, output)


async def _stream(following: Following) -> AsyncIterator[bytes]:
    ends_line = True
    try:
        for data in following.held:
            ends_line = data.endswith(b"\n")
            yield data
        async with aclosing(following.pieces()) as pieces:
            async for data in pieces:
                if hub.stopping:
                    break
                if data:
                    ends_line = data.endswith(b"\n")
                    yield data
        failure = RESTARTING if following.end is None else _failure(following.end)
    except DatabaseGone as gone:
        failure = str(gone)
    finally:
        await following.leave()
    if failure is not None:
        yield f"{'' if ends_line else chr(10)}{UNABLE}: {failure}\n".encode()


def _failure(end: Look) -> str | None:
    if end.error is not None:
        return end.error
    return f"it ended with exit code {end.exit_code}" if end.exit_code else None


def _failed(end: Look, failure: str, output: bytes) -> JSONResponse:
    """What the command wrote is there, too, and its last line in the sentence: the client shows nothing else."""
    text = output.decode(errors="replace")
    lines = text.strip().splitlines()
    if end.error == commands.NOT_RUNNING:
        sentence = commands.NOT_RUNNING
    else:
        said = f": {lines[-1][:_LAST_LINE]}" if lines else ""
        sentence = f"{UNABLE}: {failure}{said}"
    return JSONResponse({"error": sentence, "exit_code": end.exit_code, "output": text}, status_code=400)


async def _argv(request: Request, command: str | None) -> list[str]:
    body = await read_object(request, 4 * _LONGEST)
    words: Any = body.get("command")
    if words is None and command is not None:
        words = [word.replace("\\,", ",") for word in _COMMA.split(command)]
    if words in (None, "", [], [""]):
        raise ApiError(400, NO_COMMAND)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ApiError(400, "command: must be a list of words")
    if not words[0]:
        raise ApiError(400, NO_COMMAND)
    if any("\0" in word for word in words):
        raise ApiError(400, "command: cannot hold a NUL character")
    if sum(len(word.encode()) for word in words) > _LONGEST:
        raise ApiError(400, f"command: cannot be longer than {_LONGEST >> 10} KB")
    return words


@router.put("/jobs/{job_id}/snapshot", summary="Create a snapshot of a running job's files")
async def create_snapshot(job_id: str, request: Request, caller: CallerDep, path: Text = None) -> Response:
    """Put an archive of a file or folder of the job where ``GET`` finds it.

    ``path`` is relative to the job's folder, or begins with that, with ``/tmp`` or with a mount point of an artifact.
    An answer that takes long begins with blanks, and its ``error`` says if there is no snapshot after all.
    """
    if not path:
        raise ApiError(400, NO_PATH)
    number, what = await run_in_threadpool(_what_to_keep, job_id, caller, path)
    order = Order(commands.SNAPSHOT, settings().snapshot_timeout_s, settings().snapshot_limit, what)
    following = await Following.give(number, order)
    await following.hold(request, quiet_s=_QUIET_S, written_s=_QUIET_S, most=_HELD)
    if following.end is None:
        return StreamingResponse(_blanks(following), media_type="application/json", headers=_LIVE)
    await following.leave()
    failure = _failure(following.end)
    return JSONResponse({} if failure is None else {"error": failure}, status_code=200 if failure is None else 400)


async def _blanks(following: Following) -> AsyncIterator[bytes]:
    try:
        async with aclosing(following.pieces()) as pieces:
            async for _ in pieces:
                if hub.stopping:
                    break
                yield b" "
        failure = RESTARTING if following.end is None else _failure(following.end)
    except DatabaseGone as gone:
        failure = str(gone)
    finally:
        await following.leave()
    yield json.dumps({} if failure is None else {"error": failure}).encode()


@router.get("/jobs/{job_id}/snapshot", summary="Where to download the snapshot of a running job")
def snapshot(job_id: str, caller: CallerDep) -> dict[str, str]:
    """Return a URL for an hour of the archive that was created last."""

    def work(session: Session) -> tuple[str, Look | None]:
        job = _found(session, job_id, caller)
        if not commands.is_running(session, job):
            raise ApiError(400, commands.NOT_RUNNING)
        return job.uid, commands.last_snapshot(session, job.id)

    uid, last = transact(work)
    if last is None:
        raise ApiError(400, NO_SNAPSHOT)
    if not last.over:
        raise ApiError(400, "A snapshot is being created")
    failure = _failure(last)
    if failure is not None:
        raise ApiError(400, failure)
    key = snapshot_key(uid)
    if object_store().stat(key) is None:
        raise ApiError(400, NO_SNAPSHOT)
    return {"url": object_store().url_to_get(key, SNAPSHOT_LIFETIME_S)}


def _what_to_keep(job_id: str, caller: Caller, path: str) -> tuple[int, dict[str, str]]:
    caller.require_act()

    def work(session: Session) -> tuple[int, dict[str, str]]:
        job = _found(session, job_id, caller)
        # Before the path: whatever it is, there can be no snapshot.
        if not commands.is_running(session, job):
            raise ApiError(400, commands.NOT_RUNNING)
        return job.id, {"path": _checked(path, job), "name": _member_name(path)}

    return transact(work)


def _checked(path: str, job: Job) -> str:
    """Return the container's path; the node follows it step by step and lets none leave the job's folders."""
    if "\0" in path or len(path) > _LONGEST_PATH:
        raise ApiError(400, BAD_PATH)
    if not path.startswith("/"):
        return f"{_HOME}/{path}"
    roots = [_HOME, _TMP, *_mount_points(job)]
    if not any(path == root or path.startswith(root + "/") for root in roots):
        raise ApiError(400, BAD_PATH)
    return path


def _mount_points(job: Job) -> list[str]:
    parsed = documents.parse_job(job.document, settings().limits)
    return [posixpath.normpath(artifact.mount[1]) for artifact in parsed.artifacts if artifact.mount is not None]


def _member_name(path: str) -> str:
    """Return how the archive calls it: as it was asked for, but so that unpacking it stays where it is done."""
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "."


def _own(job_id: str, caller: Caller) -> int:
    caller.require_act()
    return transact(lambda session: _found(session, job_id, caller).id)


def _found(session: Session, job_id: str, caller: Caller) -> Job:
    job = find_own(session, job_id, caller)
    if job is None:
        raise ApiError(400, NO_JOB)
    return job
