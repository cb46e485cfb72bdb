"""What lies in the object store of a workflow's jobs, for those that take it from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased

from airflow_prominence.store.tables import Job, StagedOutput


@dataclass(frozen=True)
class Output:
    """As ``StagedOutput`` has it."""

    kind: str
    asked: str
    name: str
    file: str
    sha256: str | None


@dataclass(frozen=True)
class Source:
    """A job of the workflow: its number and parameters, whose objects are its outputs, and these."""

    instance: int | None
    parameters: Mapping[str, Any]
    uid: str
    outputs: tuple[Output, ...]


def sources(session: Session, workflow_id: int | None, member: str, instance: int | None = None) -> list[Source]:
    """Return the jobs of a member by number, or the one of this number, with the outputs of their last attempts.

    The outputs of a job that a rerun has kept are those of the job that has made them.
    """
    maker = aliased(Job)
    query = (
        select(
            Job.id,
            Job.instance,
            Job.parameters,
            maker.uid,
            StagedOutput.kind,
            StagedOutput.asked,
            StagedOutput.name,
            StagedOutput.file,
            StagedOutput.sha256,
        )
        .outerjoin(maker, maker.id == func.coalesce(Job.kept_from, Job.id))
        .outerjoin(
            StagedOutput,
            and_(
                StagedOutput.job_id == maker.id,
                StagedOutput.attempt == maker.attempt,
                maker.outputs_gone_at.is_(None),
            ),
        )
        .where(Job.workflow_id == workflow_id, Job.member == member)
        .order_by(Job.instance, Job.id, StagedOutput.kind, StagedOutput.name)
    )
    if instance is not None:
        query = query.where(Job.instance == instance)
    found: dict[int, Source] = {}
    outputs: dict[int, list[Output]] = {}
    for job_id, number, parameters, uid, kind, asked, name, file, sha256 in session.execute(query):
        found.setdefault(job_id, Source(number, parameters or {}, uid or "", ()))
        listed = outputs.setdefault(job_id, [])
        if file is not None:
            listed.append(Output(kind, asked, name, file, sha256))
    return [
        Source(source.instance, source.parameters, source.uid, tuple(outputs[job_id]))
        for job_id, source in found.items()
    ]
