"""Uploading an ended job's outputs again: one order at a time, for one instance of the task ``stage_out`` each.

What the node tells of each output is kept as it comes, as a running job's reports are; the job stays as it ended.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_prominence.store import commands, kept, outputs, reports
from airflow_prominence.store.commands import NOBODY_WAITS, STAGE_OUT, NoSuchCommand
from airflow_prominence.store.letters import moment
from airflow_prominence.store.notify import tell, touch, wake_node
from airflow_prominence.store.phases import DONE, ENDED, NODE_LOST, STARTED
from airflow_prominence.store.tables import Attempt, Command, CommandOutput, Job, Lease, Node
from airflow_prominence.store.transitions import lock_job

#: The kind of a line of the story that tells of it.
UPLOAD = "upload"

#: How long it may take, and how long a node may take to ask for it (s); how much may be told of it (bytes).
TIMEOUT_S = 24 * 3600.0
_PICKED_UP_S = 30.0
_TOLD = 16 << 20
_SHOWN = 20

BEGUN_AGAIN = "the job has begun again"
ON_STORAGE = "it went to the job's own storage, which is mounted only while the job runs"


@dataclass(frozen=True)
class Restaging:
    """How it stands with a task instance's upload: not over, or over with or without an error.

    ``since`` is when it began (epoch seconds), for the lines of the story that belong to it.
    """

    over: bool
    error: str | None
    since: float


def has_staged_out(session: Session, job: Job) -> bool:
    """Tell whether the job has outputs and its last attempt came as far as storing them."""
    attempt = session.get(Attempt, (job.id, job.attempt))
    return bool(outputs.wanted(job)) and attempt is not None and attempt.staging_out_at is not None


def ask(session: Session, job: Job, ti_id: str) -> Restaging:
    """Have the outputs of an ended job uploaded again for this task instance, once; tell how it stands.

    The job's row is locked. An upload for an earlier instance is ended first.
    """
    now = time.time()
    last = _last(session, job.id)
    if last is not None and last.order["ti"] == ti_id:
        _give_up_if_hopeless(session, job, last, now)
        return Restaging(last.state == ENDED, (last.result or {}).get("error"), last.created_at)
    if last is not None and last.state != ENDED:
        last.deadline = 0.0
        _give_up_if_hopeless(session, job, last, now)
        if last.state != ENDED:
            return Restaging(False, None, now)
    if outputs.on_users_storage(job):
        return Restaging(True, ON_STORAGE, now)
    if job.outputs_gone_at is not None:
        return Restaging(True, f"its time was over at {moment(job.outputs_gone_at)}", now)
    directory = kept.of_job(session, job)
    why = kept.why_not(directory, job.ended_at or now, now)
    if directory is None or why is not None:
        return Restaging(True, why, now)
    session.add(
        Command(
            id=uuid.uuid4().hex,
            job_id=job.id,
            lease_id=directory.lease_id,
            node_id=directory.node_id,
            kind=STAGE_OUT,
            order={"timeout_s": TIMEOUT_S, "limit": _TOLD, "ti": ti_id, "outputs": outputs.wanted(job)},
            state=commands.NEW,
            created_at=now,
            deadline=now + TIMEOUT_S,
        )
    )
    tell(session, job, UPLOAD, f"Uploading output again, from node {directory.node}", now)
    touch(session, job)
    wake_node(session, directory.node_id)
    session.flush()
    return Restaging(False, None, now)


def leave(session: Session, job_id: int, ti_id: str) -> None:
    """Nobody waits any more for this task instance's upload: its node hears so at its next sign of life."""
    job = lock_job(session, job_id)
    last = None if job is None else _last(session, job_id)
    if last is not None and last.state != ENDED and last.order["ti"] == ti_id:
        last.deadline = 0.0


def shown(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return how each upload of this kind went that is over, the last twenty; times are epoch seconds."""
    query = select(Command).where(Command.job_id == job.id, Command.kind == STAGE_OUT, Command.state == ENDED)
    rows = session.scalars(query.order_by(Command.created_at.desc()).limit(_SHOWN)).all()
    view = []
    for command in reversed(rows):
        error = (command.result or {}).get("error")
        item: dict[str, Any] = {"time": int(command.created_at), "status": "completed" if error is None else "failed"}
        view.append(item if error is None else {**item, "statusReason": error})
    return view


def _last(session: Session, job_id: int) -> Command | None:
    query = select(Command).where(Command.job_id == job_id, Command.kind == STAGE_OUT)
    query = query.order_by(Command.created_at.desc(), Command.id).limit(1).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def _give_up_if_hopeless(session: Session, job: Job, command: Command, now: float) -> None:
    if command.state == ENDED:
        return
    node, lease = session.get_one(Node, command.node_id), session.get_one(Lease, command.lease_id)
    if lease.kept_gone_at is not None:
        # It does not go while it is read: the node has lost all that it knew, the order too.
        _close(session, job, command, None, f"node {node.name} has the job's directory no longer")
    elif node.state == NODE_LOST:
        _close(session, job, command, None, f"node {node.name}, which keeps the job's directory, was lost")
    elif command.deadline < now and (command.state == commands.NEW or command.deadline > 0):
        _close(session, job, command, None, NOBODY_WAITS)
    elif command.state == commands.NEW and now > command.created_at + _PICKED_UP_S:
        _close(session, job, command, None, commands.NODE_SILENT)


# -- the node's side


def is_restaging(session: Session, command_id: str) -> bool:
    """Tell whether an order is one of these."""
    return session.scalar(select(Command.kind).where(Command.id == command_id)) == STAGE_OUT


def uid_for_place(session: Session, command_id: str, node_id: int) -> str:
    """Return the name of the job's objects for a node that has such an order; else raise :class:`NoSuchCommand`."""
    job, command = _locked(session, command_id, node_id)
    if command.state == ENDED or _why_to_stop(session, job, command, time.time()) is not None:
        raise NoSuchCommand
    return job.uid


def append(session: Session, command_id: str, node_id: int, offset: int, data: bytes) -> tuple[int, str | None]:
    """Apply what the node tells, whole lines of JSON, if it is wanted next.

    Returns which byte is wanted next, and why to stop, if so. Raises :class:`reports.BadReport`.
    """
    job, command = _locked(session, command_id, node_id)
    size = commands.written(session, command_id)
    if command.state == ENDED:
        return size, "it is over"
    if command.state == commands.NEW:
        command.state = STARTED
    why = _why_to_stop(session, job, command, time.time())
    if why is not None or not data or offset != size:
        return size, why
    if size + len(data) > int(command.order["limit"]):
        return size, "too much is told of its outputs"
    _apply(session, job, data)
    session.add(CommandOutput(command_id=command_id, offset=size, data=data))
    return size + len(data), None


def end(session: Session, command_id: str, node_id: int, exit_code: int | None, error: str | None) -> None:
    """Keep how it ended; the first end counts."""
    job, command = _locked(session, command_id, node_id)
    if command.state != ENDED:
        _close(session, job, command, exit_code, error)


def _locked(session: Session, command_id: str, node_id: int) -> tuple[Job, Command]:
    """Both locked, the job first as everywhere."""
    job_id = session.scalar(select(Command.job_id).where(Command.id == command_id))
    job = None if job_id is None else lock_job(session, job_id)
    command = commands.of_node(session, command_id, node_id)
    if job is None:
        raise NoSuchCommand
    return job, command


def _why_to_stop(session: Session, job: Job, command: Command, now: float) -> str | None:
    lease = session.get(Lease, command.lease_id)
    if lease is None or job.phase != DONE or job.attempt != lease.attempt:
        return BEGUN_AGAIN
    return NOBODY_WAITS if command.deadline < now else None


def _apply(session: Session, job: Job, data: bytes) -> None:
    now = time.time()
    for line in data.splitlines():
        try:
            told = json.loads(line)
            kind, what = told["kind"], told["data"]
        except (ValueError, TypeError, KeyError):
            raise reports.BadReport("what is told of outputs must be lines of JSON with kind and data") from None
        if kind not in ("log", "output") or not isinstance(what, dict):
            raise reports.BadReport("kind: must be log or output, and data an object")
        reports.check_report(job, kind, what)
        if kind == "output":
            outputs.note(session, job, what, now)
        else:
            tell(session, job, UPLOAD, str(what["message"])[: reports.LONGEST_LINE], now)
    touch(session, job)


def _close(session: Session, job: Job, command: Command, exit_code: int | None, error: str | None) -> None:
    commands.close(session, command, exit_code, error)
    commands.forget_output(session, command.id)
    tell(session, job, UPLOAD, "Output was uploaded again" if error is None else f"Output was not uploaded: {error}")
    touch(session, job)
    session.flush()
