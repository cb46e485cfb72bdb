"""Orders to jobs' nodes: from the request that gives one to the node and back.

Here are those for running jobs, commands and snapshots; ``restaging`` has those that upload an ended job's outputs.

Whoever waits for an order renews its ``deadline``. One that nobody waits for any more goes to no node, and the node
that carries it out hears that it shall stop: so nothing runs on for a client that has hung up or a dead server.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from airflow_prominence.store.notify import answer_order, wake_node
from airflow_prominence.store.phases import ENDED, RUNNING, STAGING_OUT, STARTED
from airflow_prominence.store.tables import Command, CommandOutput, Job, Lease
from airflow_prominence.store.transitions import lock_job

EXEC = "exec"
SNAPSHOT = "snapshot"
STAGE_OUT = "stage_out"

NOT_RUNNING = "Job is not running"
NOBODY_WAITS = "nobody waits for it any more"
NODE_SILENT = "the job's node does not answer"

#: No stored piece is longer (bytes).
PIECE = 64 * 1024
#: Orders that one job may have at a time.
AT_A_TIME = 8
#: How long an order is wanted after its request was last heard of (s).
WAITED_FOR_S = 15.0

NEW = "new"
#: How long a node may take to ask for an order, and to say that one has ended which is over its time (s).
_PICKED_UP_S = 30.0
_LATE_S = 30.0
#: What has ended together with the job may still be on its way (s).
_LAST_WORDS_S = 5.0
_FORGOTTEN_S = 600.0
_LONGEST_ERROR = 2000
_SHOWN = 100


class NotRunning(Exception):
    """The job does not run, so nothing can be done in it."""


class TooMany(Exception):
    """The job has as many orders as it may have."""


class NoSuchCommand(Exception):
    """There is none of this id, or it is another node's."""


@dataclass(frozen=True)
class Order:
    """What a node is to do; ``what`` is ``argv``, or ``path`` and ``name``. ``limit`` is in bytes of output."""

    kind: str
    timeout_s: float
    limit: int
    what: Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """An order on its way to a node."""

    id: str
    lease: str
    job_uid: str
    order: Order


@dataclass(frozen=True)
class Look:
    """What is new of an order; ``over`` means that there will be nothing more."""

    data: bytes
    over: bool = False
    exit_code: int | None = None
    error: str | None = None


def give(session: Session, job_id: int, command_id: str, order: Order) -> None:
    """Have the first node of a job do something; raise :class:`NotRunning` or :class:`TooMany`."""
    job = lock_job(session, job_id)
    lease = None if job is None else _running_lease(session, job)
    if lease is None:
        raise NotRunning
    now = time.time()
    waiting = select(func.count()).where(Command.job_id == job_id, Command.state != ENDED, Command.deadline > now)
    if (session.scalar(waiting) or 0) >= AT_A_TIME:
        raise TooMany
    session.add(
        Command(
            id=command_id,
            job_id=job_id,
            lease_id=lease.id,
            node_id=lease.node_id,
            kind=order.kind,
            order={"timeout_s": order.timeout_s, "limit": order.limit, **order.what},
            state=NEW,
            created_at=now,
            deadline=now + WAITED_FOR_S,
        )
    )
    wake_node(session, lease.node_id)


def is_running(session: Session, job: Job) -> bool:
    """Tell whether something can be done in the job."""
    return _running_lease(session, job) is not None


def _running_lease(session: Session, job: Job) -> Lease | None:
    if job.phase not in (RUNNING, STAGING_OUT):
        return None
    query = select(Lease).where(Lease.job_id == job.id, Lease.attempt == job.attempt, Lease.node_num == 0)
    lease = session.scalars(query).one_or_none()
    return lease if lease is not None and lease.state == STARTED and not lease.stop_reason else None


# -- the request's side


def look(session: Session, command_id: str, position: int, most: int) -> Look:
    """Return what was written from ``position`` on, at most about ``most`` bytes; go on waiting for the rest."""
    now = time.time()
    command = session.get(Command, command_id)
    if command is None:
        return Look(b"", over=True, error=NOT_RUNNING)
    if command.state != ENDED:
        hopeless = _hopeless(session, command, now)
        if hopeless is not None:
            end(session, command_id, command.node_id, None, hopeless)
        elif command.deadline < now + WAITED_FOR_S / 2:
            command.deadline = now + WAITED_FOR_S
    ended, result = command.state == ENDED, command.result or {}
    # Read after the state: what was written before the end is there if the end is.
    rows = session.execute(
        select(CommandOutput.offset, CommandOutput.data)
        .where(CommandOutput.command_id == command_id, CommandOutput.offset >= position)
        .order_by(CommandOutput.offset)
        .limit(max(1, most // PIECE))
    ).all()
    data = b"".join(bytes(row.data) for row in rows)
    if data or not ended:
        return Look(data)
    return Look(b"", over=True, exit_code=result.get("exit_code"), error=result.get("error"))


def _hopeless(session: Session, command: Command, now: float) -> str | None:
    """Return why there will be no answer to an open order, if so."""
    lease = session.get(Lease, command.lease_id)
    if lease is None or (lease.state == ENDED and (lease.ended_at or 0.0) < now - _LAST_WORDS_S):
        return NOT_RUNNING
    if command.state == NEW and now > command.created_at + _PICKED_UP_S:
        return NODE_SILENT
    timeout_s = float(command.order["timeout_s"])
    return f"it did not end within {timeout_s:g} s" if now > command.created_at + timeout_s + _LATE_S else None


def leave(session: Session, command_id: str) -> None:
    """Nobody waits for the order any more, since it is over or not."""
    command = _locked(session, command_id)
    if command is None:
        return
    command.deadline = 0.0
    if command.state == ENDED:
        forget_output(session, command_id)


def last_snapshot(session: Session, job_id: int) -> Look | None:
    """Return how the job's last snapshot ended, or that it did not yet; ``None`` if none was ever asked for."""
    query = select(Command).where(Command.job_id == job_id, Command.kind == SNAPSHOT)
    command = session.scalars(query.order_by(Command.created_at.desc()).limit(1)).one_or_none()
    if command is None:
        return None
    result = command.result or {}
    return Look(b"", command.state == ENDED, result.get("exit_code"), result.get("error"))


def executed(session: Session, job_id: int) -> list[tuple[float, list[str]]]:
    """Return when which commands were run in a job, the last hundred."""
    query = select(Command.created_at, Command.order).where(Command.job_id == job_id, Command.kind == EXEC)
    rows = session.execute(query.order_by(Command.created_at.desc()).limit(_SHOWN)).all()
    return [(row.created_at, list(row.order["argv"])) for row in reversed(rows)]


# -- the node's side


def for_node(session: Session, node_id: int, held: Collection[str]) -> tuple[Given, ...]:
    """Return the orders that the node has not heard of; ``held`` are those that it works on."""
    now = time.time()
    rows = session.execute(
        select(Command, Job.uid)
        .join(Job, Job.id == Command.job_id)
        .join(Lease, Lease.id == Command.lease_id)
        .where(Command.node_id == node_id, Command.state == NEW, Command.deadline > now)
        .where(or_(Lease.state != ENDED, Command.kind == STAGE_OUT))
        .order_by(Command.created_at)
    ).all()
    given = []
    for command, uid in rows:
        if command.id in held:
            command.state = STARTED
            continue
        what = dict(command.order)
        timeout_s, limit = float(what.pop("timeout_s")), int(what.pop("limit"))
        given.append(Given(command.id, command.lease_id, uid, Order(command.kind, timeout_s, limit, what)))
    return tuple(given)


def append(session: Session, command_id: str, node_id: int, offset: int, data: bytes) -> tuple[int, str | None]:
    """Keep a piece of output if it is the one wanted next; return what is wanted next, and why to stop, if so."""
    now = time.time()
    command = of_node(session, command_id, node_id)
    size = written(session, command_id)
    if command.state == ENDED:
        return size, "it is over"
    if command.state == NEW:
        command.state = STARTED
    lease = session.get(Lease, command.lease_id)
    if lease is None or lease.state == ENDED or lease.stop_reason:
        return size, NOT_RUNNING
    if command.deadline < now:
        return size, NOBODY_WAITS
    if not data or offset != size:
        return size, None
    limit = int(command.order["limit"])
    kept = data[: max(0, limit - size)]
    if kept:
        session.add(CommandOutput(command_id=command_id, offset=size, data=kept))
        answer_order(session, command.job_id)
    too_much = len(kept) < len(data)
    return size + len(kept), f"it wrote more than {limit / (1 << 20):g} MB" if too_much else None


def end(session: Session, command_id: str, node_id: int, exit_code: int | None, error: str | None) -> None:
    """Keep how an order ended; the first end counts."""
    command = of_node(session, command_id, node_id)
    if command.state == ENDED:
        return
    close(session, command, exit_code, error)
    if command.deadline < time.time():
        forget_output(session, command_id)


def close(session: Session, command: Command, exit_code: int | None, error: str | None) -> None:
    """Note how an order ended, and wake who waits for it."""
    command.state, command.ended_at = ENDED, time.time()
    command.result = {"exit_code": exit_code, "error": None if error is None else error[:_LONGEST_ERROR]}
    answer_order(session, command.job_id)
    session.flush()


def written(session: Session, command_id: str) -> int:
    """Return how many bytes of an order's output are kept."""
    return int(session.scalar(select(func.coalesce(func.max(_end()), 0)).where(_is_of(command_id))) or 0)


def of_node(session: Session, command_id: str, node_id: int) -> Command:
    """Return an order with its row locked; raise :class:`NoSuchCommand` if it is not this node's."""
    command = _locked(session, command_id)
    if command is None or command.node_id != node_id:
        raise NoSuchCommand
    return command


def _locked(session: Session, command_id: str) -> Command | None:
    query = select(Command).where(Command.id == command_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def _is_of(command_id: str) -> Any:
    return CommandOutput.command_id == command_id


def _end() -> Any:
    return CommandOutput.offset + func.length(CommandOutput.data)


def forget_output(session: Session, command_id: str) -> None:
    """Drop what an order has written."""
    session.execute(delete(CommandOutput).where(_is_of(command_id)))


def forget_old(session: Session, now: float) -> None:
    """Close what nobody has waited for for long, and drop what was written and fetched, or never fetched."""
    old = now - _FORGOTTEN_S
    result = {"exit_code": None, "error": NOBODY_WAITS}
    session.execute(
        update(Command)
        .where(Command.state != ENDED, Command.deadline < old, Command.created_at < old)
        .values(state=ENDED, ended_at=now, result=result)
    )
    over = select(Command.id).where(Command.state == ENDED, Command.deadline < old)
    session.execute(delete(CommandOutput).where(CommandOutput.command_id.in_(over)))
