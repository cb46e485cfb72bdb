"""What users see of workflows: lists and descriptions (``prominence.md`` 3.3, 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, case, exists, func, select
from sqlalchemy.orm import Session

from airflow_prominence.store.phases import DELETED, DONE
from airflow_prominence.store.tables import Job, Workflow, WorkflowLabel
from airflow_prominence.store.workflows import counts


@dataclass(frozen=True)
class WorkflowFilter:
    """Which of a user's workflows a list shows; the fields are the query parameters of ``prominence.md`` 3.3."""

    owner: str
    completed: bool = False
    everything: bool = False
    num: int = 1
    status: str | None = None
    name: str | None = None
    constraints: Mapping[str, str] = field(default_factory=dict)
    ids: Sequence[int] | None = None


def listed(session: Session, want: WorkflowFilter, *, in_full: bool) -> list[dict[str, Any]]:
    """Return workflows as lists show them: finished ones, newest end first, then active ones as submitted."""
    columns: list[Any] = [
        Workflow.id,
        Workflow.name,
        Workflow.status,
        Workflow.reason,
        Workflow.created_at,
        Workflow.started_at,
        Workflow.ended_at,
        Workflow.progress,
    ]
    if in_full:
        columns.append(Workflow.document)
    rows = [row for query in _selected(want, columns) for row in session.execute(query)]
    live = _live(session, [row.id for row in rows if row.ended_at is None])
    views = [_view(row, live.get(row.id), in_full=in_full) for row in rows]
    # Whether an active workflow runs already its jobs know.
    return [view for view in views if want.status is None or view["status"] == want.status]


def describe(session: Session, workflow: Workflow) -> dict[str, Any]:
    """Return one workflow in full: its document with its id, status and progress."""
    found = listed(session, WorkflowFilter(workflow.owner, ids=[workflow.id]), in_full=True)
    return found[0]


def _selected(want: WorkflowFilter, columns: list[Any]) -> list[Select[Any]]:
    base = select(*columns).where(Workflow.owner == want.owner)
    if want.name is not None:
        base = base.where(Workflow.name == want.name)
    for key, value in want.constraints.items():
        label = (WorkflowLabel.key == key.lower(), WorkflowLabel.value == value)
        base = base.where(exists().where(WorkflowLabel.workflow_id == Workflow.id, *label))
    if want.ids is not None:
        base = base.where(Workflow.id.in_(want.ids))
    finished = base.where(Workflow.ended_at.is_not(None)).order_by(Workflow.ended_at.desc(), Workflow.id.desc())
    active = base.where(Workflow.ended_at.is_(None)).order_by(Workflow.id)
    if want.ids is not None or want.everything:
        return [finished, active]
    if want.completed:
        return [finished if want.num < 0 else finished.limit(want.num)]
    return [finished.where(Workflow.in_queue), active]


def _live(session: Session, ids: list[int]) -> dict[int, Any]:
    """Count the jobs of active workflows, all in one query."""
    if not ids:
        return {}
    begun = Job.started_at.is_not(None) | (Job.phase == DONE) | (Job.attempt > 1)
    left_queue = func.count().filter(begun, Job.kept_from.is_(None))
    started = func.min(case((Job.kept_from.is_(None), Job.started_at)))
    query = select(Job.workflow_id, *counts(), left_queue.label("left_queue"), started.label("started_at"))
    rows = session.execute(query.where(Job.workflow_id.in_(ids)).group_by(Job.workflow_id))
    return {row.workflow_id: row for row in rows}


def _view(row: Row[Any], live: Any, *, in_full: bool) -> dict[str, Any]:
    view: dict[str, Any] = dict(row.document) if in_full else {}
    if live is None:
        progress, started, status = row.progress, row.started_at, row.status
    else:
        progress = {key: int(getattr(live, key)) for key in ("total", "done", "failed", "queued", "waiting")}
        started = live.started_at
        status = row.status or ("running" if live.left_queue else "pending")
    times = {"createTime": row.created_at, "startTime": started, "endTime": row.ended_at}
    view |= {
        "id": row.id,
        "name": row.name,
        "status": status,
        "events": {name: int(at) for name, at in times.items() if at is not None},
        "progress": progress or {},
    }
    if row.reason or row.status == DELETED:
        view["statusReason"] = row.reason
    return view
