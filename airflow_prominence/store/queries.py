"""What users see of jobs: lists and descriptions, rendered by the database (``prominence.md`` 3.2, 3.3)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Text, cast, exists, func, select
from sqlalchemy.orm import Session

from airflow_prominence.store import commands, kept, outputs, restaging, retention
from airflow_prominence.store.phases import DONE, STAGING_IN, reached
from airflow_prominence.store.retention import Retention
from airflow_prominence.store.tables import Attempt, Event, Job, Label, Lease, Node, Output, TokenCutoff
from airflow_prominence.store.transitions import will_retry

#: No stored piece is longer, so a piece that holds an offset begins less than this before it.
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class JobFilter:
    """Which of a user's jobs a list shows; the fields are the query parameters of ``prominence.md`` 3.3."""

    owner: str
    completed: bool = False
    everything: bool = False
    num: int = 1
    status: str | None = None
    name: str | None = None
    constraints: Mapping[str, str] = field(default_factory=dict)
    ids: Sequence[int] | None = None
    only_job: int | None = None
    workflows: Sequence[int] | None = None


def _summary() -> ColumnElement[Any]:
    events = func.json_build_object(
        "createTime", cast(func.floor(Job.created_at), BigInteger),
        "startTime", cast(func.floor(Job.started_at), BigInteger),
        "endTime", cast(func.floor(Job.ended_at), BigInteger),
    )  # fmt: skip
    return func.json_strip_nulls(
        func.json_build_object(
            "id", Job.id,
            "name", Job.name,
            "status", Job.status,
            "statusReason", func.nullif(Job.reason, ""),
            "events", events,
            "tasks", Job.tasks,
            "parameters", Job.parameters,
        )
    )  # fmt: skip


def _matching(want: JobFilter) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [Job.owner == want.owner]
    if want.only_job is not None:
        where.append(Job.id == want.only_job)
    if want.name is not None:
        where.append(func.coalesce(Job.member, Job.name) == want.name)
    if want.status is not None:
        where.append(Job.status == want.status)
    for key, value in want.constraints.items():
        where.append(exists().where(Label.job_id == Job.id, Label.key == key.lower(), Label.value == value))
    if want.ids is not None:
        where.append(Job.id.in_(want.ids))
    if want.workflows is not None:
        where.append(Job.workflow_id.in_(want.workflows))
    return where


def _selected(want: JobFilter, *columns: Any) -> list[Select[Any]]:
    base = select(*columns).where(*_matching(want))
    finished = base.where(Job.phase == DONE).order_by(Job.ended_at.desc(), Job.id.desc())
    active = base.where(Job.phase != DONE).order_by(Job.id)
    if want.ids is not None or want.everything:
        return [finished, active]
    if want.completed:
        return [finished if want.num < 0 else finished.limit(want.num)]
    # Both are one's own choice to keep in sight: what runs, and what is over and was not removed yet.
    return [finished.where(Job.in_queue), active]


def summaries(session: Session, want: JobFilter) -> str:
    """Return the list as JSON text: finished jobs, newest end first, then active ones in submission order.

    The database renders it: ten thousand jobs never become Python objects.
    """
    parts = []
    for query in _selected(want, _summary().label("item")):
        rows = query.subquery()
        text = session.scalar(select(cast(func.json_agg(rows.c.item), Text)))
        if text:
            parts.append(text[1:-1])
    return "[" + ", ".join(parts) + "]"


def jobs(session: Session, want: JobFilter) -> Iterator[Job]:
    """Yield the same jobs, to be described in full."""
    for query in _selected(want, Job):
        yield from session.scalars(query)


def describe(session: Session, job: Job, keep: Retention) -> dict[str, Any]:
    """Return one job in full, as ``GET /jobs/{id}`` shows it, and how long what is left of it is kept.

    Its outputs have their ``file`` where the API puts a ``url``.
    """
    document = job.document
    view: dict[str, Any] = {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "tasks": job.tasks,
        "resources": document["resources"],
    }
    if job.reason:
        view["statusReason"] = job.reason
    if job.parameters:
        view["parameters"] = job.parameters
    for key in ("labels", "policies", "notifications", "artifacts", "inputs", "storage"):
        if key in document:
            view[key] = document[key]
    view.update(outputs.shown(session, source_of(session, job) or job))
    times = {"createTime": job.created_at, "startTime": job.started_at, "endTime": job.ended_at}
    view["events"] = {name: int(at) for name, at in times.items() if at is not None}
    execution = dict(job.execution or {})
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.attempt)).all()
    site = attempts[-1].site if attempts else None
    if site and "site" not in execution:
        execution["site"] = site
    if len(attempts) > 1:
        execution["attempts"] = [_attempt(attempt) for attempt in attempts]
    run = commands.executed(session, job.id) if job.started_at is not None else []
    if run:
        execution["commands"] = [{"time": int(at), "command": shlex.join(argv)} for at, argv in run]
    ends = _retention(session, job, keep) if job.phase == DONE else {}
    if ends:
        # Here and nowhere else: the client strips it when it prints a document to be submitted again.
        execution["retention"] = ends
        if "warning" in ends:
            # The one line of a finished job that the client always prints.
            view.setdefault("statusReason", ends["warning"])
    uploads = restaging.shown(session, job) if retention.has_outputs(job) else []
    if uploads:
        execution["uploadedAgain"] = uploads
    if execution:
        view["execution"] = execution
    return view


def _retention(session: Session, job: Job, keep: Retention) -> dict[str, Any]:
    now = time.time()
    if not retention.has_outputs(job):
        return retention.shown(job, keep, now)
    directory = kept.shown(kept.of_job(session, job), now)
    return retention.shown(job, keep, now, directory, outputs.are_missing(session, job))


def _attempt(attempt: Attempt) -> dict[str, Any]:
    shown = {
        "attempt": attempt.attempt,
        "site": attempt.site,
        "status": attempt.status,
        "statusReason": attempt.reason or None,
        "createTime": int(attempt.queued_at),
        "startTime": int(attempt.running_at) if attempt.running_at is not None else None,
        "endTime": int(attempt.ended_at) if attempt.ended_at is not None else None,
        "exitCodes": [task["exitCode"] for task in (attempt.execution or {}).get("tasks", []) if "exitCode" in task]
        or None,
    }
    return {key: value for key, value in shown.items() if value is not None}


def find_job(session: Session, job_id: int, owner: str) -> Job | None:
    """Return the job if it is this owner's."""
    return session.scalars(select(Job).where(Job.id == job_id, Job.owner == owner)).one_or_none()


def source_of(session: Session, job: Job) -> Job | None:
    """Return the job whose output is this one's: itself, or the one that a rerun has kept, if that is still there."""
    return job if job.kept_from is None else session.get(Job, job.kept_from)


@dataclass(frozen=True)
class Owner:
    """Whose a job is, and whether all of that user's tokens were revoked since it was submitted."""

    name: str
    groups: tuple[str, ...]
    email: str | None
    tokens_revoked: bool


def owner_at_attempt(session: Session, job_id: int, attempt: int) -> Owner | None:
    """Return whose the job is if it is alive and at this attempt; a job's token is good for no longer."""
    ended = exists().where(TokenCutoff.owner == Job.owner, TokenCutoff.last_id >= Job.id)
    query = select(Job.owner, Job.owner_groups, Job.email, ended)
    row = session.execute(query.where(Job.id == job_id, Job.attempt == attempt, Job.phase != DONE)).first()
    return None if row is None else Owner(row[0], tuple(row[1]), row[2], row[3])


def job_of_run(session: Session, dag_id: str, run_id: str, group_id: str = "", slot: int = -1) -> Job | None:
    """Return the job that a group of a run's tasks drives; the row knows, conf is never asked."""
    query = select(Job).where(Job.dag_id == dag_id, Job.run_id == run_id, Job.group_id == group_id, Job.slot == slot)
    return session.scalars(query).one_or_none()


def versions(session: Session, ids: Sequence[int]) -> dict[int, int]:
    """Return the versions of the given jobs."""
    rows = session.execute(select(Job.id, Job.version).where(Job.id.in_(ids)))
    return {int(job_id): int(version) for job_id, version in rows}


def driver_view(session: Session, job: Job) -> dict[str, Any]:
    """Return what a trigger needs to know of a job, its story included."""
    story = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.id)).all()
    site = session.scalar(select(Attempt.site).where(Attempt.job_id == job.id, Attempt.attempt == job.attempt))
    nodes = session.scalars(
        select(Node.name)
        .join(Lease, Lease.node_id == Node.id)
        .where(Lease.job_id == job.id, Lease.attempt == job.attempt)
        .order_by(Lease.node_num)
    ).all()
    return {
        "id": job.id,
        "owner": job.owner,
        "name": job.name,
        "version": job.version,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "will_retry": will_retry(job),
        "phase": job.phase,
        "status": job.status,
        "reason": job.reason,
        "node_success": job.node_success,
        "released": job.released_at is not None,
        "dag_id": job.dag_id,
        "run_id": job.run_id,
        "stage_out_ti": job.stage_out_ti,
        "allowed": job.allowed,
        "holding": job.holding,
        "tasks_success": job.tasks_success,
        "site": site,
        "nodes": list(nodes),
        "image": job.tasks[0]["image"],
        "execution": job.execution,
        "events": [
            {"time": event.time, "attempt": event.attempt, "kind": event.kind, "message": event.message}
            for event in story
        ],
    }


def shown_attempt(session: Session, job: Job) -> int:
    """Return the attempt whose output is shown: the present one once it runs, else the last that wrote anything."""
    if reached(job.phase, STAGING_IN) or job.attempt == 1:
        return job.attempt
    last = session.scalar(select(func.max(Output.attempt)).where(Output.job_id == job.id))
    return int(last or job.attempt)


def read_output(
    session: Session, job_id: int, attempt: int, node_num: int, stream: str, offset: int, most: int
) -> bytes:
    """Return up to about ``most`` bytes of a stream from ``offset`` on; empty at its present end."""
    rows = session.execute(
        select(Output.offset, Output.data)
        .where(
            Output.job_id == job_id,
            Output.attempt == attempt,
            Output.node_num == node_num,
            Output.stream == stream,
            Output.offset > offset - _CHUNK,
            Output.offset + func.length(Output.data) > offset,
        )
        .order_by(Output.offset)
        .limit(max(1, most // _CHUNK))
    )
    return b"".join(bytes(data[max(0, offset - start) :]) for start, data in rows)
