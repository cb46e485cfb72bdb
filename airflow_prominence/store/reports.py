"""What a job's runner reports, applied once each, in order, fenced by its lease."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store import capacity, holding, kept, outputs
from airflow_prominence.store.notify import ask_for_placing, tell, touch
from airflow_prominence.store.phases import COMPLETED, DONE, OUTCOMES, RUNNING, STAGING_IN, STAGING_OUT
from airflow_prominence.store.tables import Job, Lease, Node, Output
from airflow_prominence.store.transitions import enter, finish, lock_job

STREAMS = ("stdout", "stderr")
CHUNK = 64 * 1024


#: What a report of each kind must hold; `log` lines longer than this many characters are cut.
_FIELDS: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    "stage_in": {},
    "pulled": {"task": (int,), "status": (str,), "seconds": (int, float)},
    "running": {},
    "task": {"task": (int,), "exit_code": (int,), "wall": (int, float)},
    "stage_out": {},
    "output": {"name": (str,), "asked": (str,), "kind": (str,), "file": (str,), "size": (int,), "sha256": (str,)},
    "held": {"phase": (str,)},
    "log": {"message": (str,)},
    "end": {"status": (str,)},
}
LONGEST_LINE = 4096


class BadReport(ValueError):
    """A report does not hold what its kind must; the text names the field."""


class StaleReport(Exception):
    """The lease is over or unknown, or its attempt was followed by another: the runner must stop."""


def lock_lease(session: Session, lease_id: str) -> tuple[Job, Lease]:
    """Return a lease and its job, both locked; raise :class:`StaleReport` if the lease is over or overtaken."""
    job_id = session.scalar(select(Lease.job_id).where(Lease.id == lease_id))
    job = lock_job(session, job_id) if job_id is not None else None
    lease = session.scalars(
        select(Lease).where(Lease.id == lease_id).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if job is None or lease is None:
        raise StaleReport("there is no such lease")
    if lease.attempt != job.attempt:
        raise StaleReport(f"attempt {lease.attempt} is over, the job is at attempt {job.attempt}")
    return job, lease


def apply_reports(session: Session, lease_id: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Apply the reports that are new and in sequence.

    Returns the highest sequence number applied (``seq``); if the runner should stop, why (``stop``); and of a job that
    holds to which phase it may go (``go``). Reports after the job's end are taken from its last attempt only, and
    change nothing but that the lease ends.
    """
    job, lease = lock_lease(session, lease_id)
    for report in sorted(reports, key=lambda item: item["seq"]):
        if report["seq"] != lease.seq + 1:
            continue
        check_report(job, report["kind"], report["data"])
        lease.seq = report["seq"]
        at = min(max(float(report["time"]), job.created_at), time.time())
        _apply(session, job, lease, report["kind"], report["data"], at)
    session.flush()
    return {"seq": lease.seq, "stop": lease.stop_reason, "go": job.allowed}


def check_report(job: Job, kind: str, data: Mapping[str, Any]) -> None:
    """Raise :class:`BadReport` if a report of this kind could not be applied."""
    fields = _FIELDS.get(kind)
    if fields is None:
        raise BadReport(f"reports.kind: {kind[:60]!r} is not known")
    for name, types in fields.items():
        if not isinstance(data.get(name), types) or isinstance(data.get(name), bool):
            raise BadReport(f"reports.data.{name}: is missing or of a wrong type in a report of kind {kind}")
    if "task" in fields and not 0 <= data["task"] < len(job.tasks):
        raise BadReport(f"reports.data.task: the job has no task {data['task']}")
    if kind == "held":
        tasks = data.get("tasks", [])
        if data["phase"] not in holding.BORDERS or not isinstance(tasks, list):
            raise BadReport("reports.data.phase: is no border of phases")
    if kind == "output":
        fault = outputs.fault(job, data)
        if fault is not None:
            raise BadReport(f"reports.data.{fault}")
    if kind == "end":
        execution = data.get("execution") or {}
        tasks = execution.get("tasks", []) if isinstance(execution, dict) else None
        if data["status"] not in OUTCOMES or not isinstance(tasks, list):
            raise BadReport("reports.data: an end needs a status and an execution with a list of tasks")
        if not all(isinstance(task, dict) for task in tasks):
            raise BadReport("reports.data.execution.tasks: must be objects")


def _apply(session: Session, job: Job, lease: Lease, kind: str, data: Mapping[str, Any], at: float) -> None:
    if kind == "end":
        _end(session, job, lease, data, at)
        return
    if job.phase == DONE or lease.node_num != 0:
        return
    if kind in (STAGING_IN, "stage_in"):
        enter(session, job, STAGING_IN, at)
        tell(session, job, kind, "Staging in", at)
    elif kind == "running":
        job.started_at = at
        enter(session, job, RUNNING, at)
        tell(session, job, kind, "Running", at)
    elif kind == "stage_out":
        enter(session, job, STAGING_OUT, at)
        tell(session, job, kind, "Staging out", at)
    elif kind == "held":
        holding.note(session, job, data, at)
    elif kind == "output":
        outputs.note(session, job, data, at)
    else:
        tell(session, job, kind, _sentence(job, kind, data), at)
        touch(session, job)


def _sentence(job: Job, kind: str, data: Mapping[str, Any]) -> str:
    if kind == "pulled":
        image = job.tasks[data["task"]]["image"]
        if data["status"] == "cached":
            return f"Task {data['task']}: image {image} taken from the node's cache"
        if data["status"] == "failed":
            return f"Task {data['task']}: image {image} could not be pulled"
        return f"Task {data['task']}: image {image} pulled in {float(data['seconds']):.1f} s"
    if kind == "task":
        if data.get("sidecar"):
            return _sidecar_sentence(data)
        retries = f" after {data['retries']} retries" if data.get("retries") else ""
        return f"Task {data['task']} ended with exit code {data['exit_code']} in {float(data['wall']):.1f} s{retries}"
    return str(data["message"])[:LONGEST_LINE]


def _sidecar_sentence(data: Mapping[str, Any]) -> str:
    code, wall = data["exit_code"], float(data["wall"])
    if data["sidecar"] == "early":
        return f"Task {data['task']}, a sidecar, ended early with exit code {code} after {wall:.1f} s; the job goes on"
    return f"Task {data['task']}, a sidecar, was ended after the last task; its exit code is {code}"


def _end(session: Session, job: Job, lease: Lease, data: Mapping[str, Any], at: float) -> None:
    if lease.node_num == 0 and job.phase != DONE:
        node = session.get_one(Node, lease.node_id)
        execution = dict(data.get("execution") or {})
        execution["site"] = node.site
        execution["provisionedResources"] = {
            "cpus": lease.cpus,
            "memory": _whole(lease.memory_mb / 1024),
            "disk": _whole(lease.disk_mb / 1024),
            "nodes": job.nodes,
        }
        if job.attempt > 1:
            execution["retries"] = job.attempt - 1
        node_success = bool(data.get("node_success"))
        if data.get("tail") and not node_success:
            tell(session, job, "tail", f"Last lines of output:\n{data['tail']}", at)
        if data["status"] == COMPLETED and job.policies.get("reportJobSuccessOnTaskFailure"):
            node_success = True
        capacity.end_lease(session, lease)
        finish(
            session,
            job,
            data["status"],
            data.get("reason", ""),
            node_success=node_success,
            execution=execution,
            at=at,
            only_copy_until=kept.until(data, at) if outputs.are_missing(session, job) else None,
        )
        kept.note(job, lease, data, at)
    else:
        capacity.end_lease(session, lease)
    capacity.settle_release(session, job)
    ask_for_placing(session)


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def append_output(session: Session, lease_id: str, stream: str, offset: int, data: bytes, limit: int) -> dict[str, Any]:
    """Store a piece of a stream if it is the next one; answer which offset is wanted next.

    A piece that was stored before, or comes too early, changes nothing. Past ``limit`` bytes nothing more is
    kept and the answer says ``full``.
    """
    lease = session.scalars(select(Lease).where(Lease.id == lease_id)).one_or_none()
    if lease is None:
        raise StaleReport("there is no such lease")
    attempt_now = session.scalar(select(Job.attempt).where(Job.id == lease.job_id))
    if attempt_now != lease.attempt:
        raise StaleReport(f"attempt {lease.attempt} is over, the job is at attempt {attempt_now}")
    key = (lease.job_id, lease.attempt, lease.node_num, stream)
    wanted = _length(session, key)
    if offset != wanted or not data:
        return {"offset": wanted, "full": wanted >= limit}
    kept = data[: max(0, limit - wanted)]
    if kept:
        job_id, attempt, node_num, _ = key
        row = {"job_id": job_id, "attempt": attempt, "node_num": node_num, "stream": stream, "offset": offset}
        session.execute(insert(Output).values(**row, data=kept).on_conflict_do_nothing())
        wanted += len(kept)
    full = len(kept) < len(data) or wanted >= limit
    if len(kept) < len(data):
        marker = b"\n[cut here: the limit of %d bytes is reached]\n" % limit
        job_id, attempt, node_num, _ = key
        row = {"job_id": job_id, "attempt": attempt, "node_num": node_num, "stream": stream, "offset": wanted}
        session.execute(insert(Output).values(**row, data=marker).on_conflict_do_nothing())
    return {"offset": wanted, "full": full}


def _length(session: Session, key: tuple[int, int, int, str]) -> int:
    job_id, attempt, node_num, stream = key
    last = session.execute(
        select(Output.offset, func.length(Output.data))
        .where(Output.job_id == job_id, Output.attempt == attempt, Output.node_num == node_num, Output.stream == stream)
        .order_by(Output.offset.desc())
        .limit(1)
    ).first()
    return int(last[0] + last[1]) if last else 0
