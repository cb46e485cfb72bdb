"""Directories that nodes keep of jobs that have ended: noted with the end, settled by what a node says it holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_prominence.store.letters import moment
from airflow_prominence.store.phases import DELETED, DONE, NODE_LOST
from airflow_prominence.store.tables import Job, Lease, Node

#: What a node says of an ended lease whose directory it keeps.
KEPT = "kept"
_RUNNING = "running"


@dataclass(frozen=True)
class Directory:
    """A job's directory on the node of its last attempt, or what there was of one. Times are epoch seconds."""

    lease_id: str
    node_id: int
    node: str
    lost_since: float | None
    until: float | None
    gone_at: float | None

    def gone(self, now: float) -> float | None:
        """Return since when it is gone, if it is."""
        if self.gone_at is not None:
            return self.gone_at
        return self.until if self.until is not None and self.until <= now else None


def until(data: Mapping[str, Any], at: float) -> float | None:
    """Return until when a node keeps the directory of a job that has ended ``at``, by the report of the end."""
    kept_s = data.get("kept_s")
    return at + kept_s if isinstance(kept_s, int | float) and kept_s > 0 else None


def note(job: Job, lease: Lease, data: Mapping[str, Any], at: float) -> None:
    """Note at the job's end that its node keeps its directory, if the report of the end says so."""
    if _is_wanted(job, lease):
        lease.kept_until = until(data, at)


def _is_wanted(job: Job, lease: Lease) -> bool:
    return job.phase == DONE and job.status != DELETED and job.attempt == lease.attempt


def settle(session: Session, node_id: int, held: Mapping[str, str]) -> frozenset[str]:
    """Note which directories the node has no longer; return the leases of those that it may go on keeping."""
    rows = session.execute(
        select(Lease, Job)
        .join(Job, Job.id == Lease.job_id)
        .where(Lease.node_id == node_id, Lease.kept_until.is_not(None), Lease.kept_gone_at.is_(None))
    ).all()
    keep = set()
    for lease, job in rows:
        state = held.get(lease.id)
        if state == KEPT:
            if _is_wanted(job, lease):
                keep.add(lease.id)
        elif state != _RUNNING:  # its runner is about to leave
            now = time.time()
            lease.kept_gone_at = now if lease.kept_until is None else min(now, lease.kept_until)
    return frozenset(keep)


def of_job(session: Session, job: Job) -> Directory | None:
    """Return what is known of the directory of the job's last attempt; ``None`` if it never had a place."""
    row = session.execute(
        select(Lease, Node)
        .join(Node, Node.id == Lease.node_id)
        .where(Lease.job_id == job.id, Lease.attempt == job.attempt, Lease.node_num == 0)
    ).one_or_none()
    if row is None:
        return None
    lease, node = row
    lost_since = node.last_seen if node.state == NODE_LOST else None
    return Directory(lease.id, node.id, node.name, lost_since, lease.kept_until, lease.kept_gone_at)


def shown(directory: Directory | None, now: float) -> dict[str, int]:
    """Return what a description says of it: ``until`` when it is kept, or when it was ``removed``."""
    if directory is None or directory.until is None:
        return {}
    gone_at = directory.gone(now)
    return {"until": int(directory.until)} if gone_at is None else {"removed": int(gone_at)}


def why_not(directory: Directory | None, ended_at: float, now: float) -> str | None:
    """Return why nothing can be read from it, if so; one clause."""
    if directory is None or directory.until is None:
        return f"the job's directory was not kept after its end at {moment(ended_at)}"
    gone_at = directory.gone(now)
    if gone_at is not None and gone_at < directory.until:
        return (
            f"the job's directory on node {directory.node} is gone since {moment(gone_at)}, before its time "
            f"({moment(directory.until)}), because its room was wanted or the node was set up anew"
        )
    if gone_at is not None:
        return f"the job's directory on node {directory.node} was kept until {moment(gone_at)}"
    if directory.lost_since is not None:
        return (
            f"node {directory.node}, which keeps the job's directory, has not been heard of since "
            f"{moment(directory.lost_since)}"
        )
    return None
