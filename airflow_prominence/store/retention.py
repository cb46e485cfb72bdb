"""How long what finished jobs leave behind is kept: what is due, what is removed, who is warned before.

Removing is one job a transaction, its row locked and looked at again: a job that somebody has just cleared in Airflow
is active, and nothing of an active job is ever touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, text, update
from sqlalchemy.orm import Session, aliased

from airflow_prominence.store import accounting, letters, outputs
from airflow_prominence.store.notify import tell
from airflow_prominence.store.phases import DONE
from airflow_prominence.store.tables import WANTS_LETTERS, Job, Output, StagedOutput, Workflow
from airflow_prominence.store.transitions import lock_job

DAY_S = 86400.0

#: Removes all objects below a folder; doing it again does no harm.
DeleteBelow = Callable[[str], None]


@dataclass(frozen=True)
class Retention:
    """Days for which what a job leaves is kept after its end, and an upload after its last use; 0 means for ever.

    A job's directory on its node is kept for hours, and 0 means not at all.
    """

    stdout_days: float
    outputs_days: float
    jobs_days: float
    uploads_days: float
    in_queue_days: float
    warn_days: float
    directories_hours: float

    @property
    def directory_s(self) -> float:
        """For how long a node keeps a job's directory, in seconds: outputs that go are not uploaded again."""
        limits = [days * DAY_S for days in (self.outputs_days, self.jobs_days) if days]
        return min([self.directories_hours * 3600, *limits])

    def until(self, job: Job, days: float) -> float | None:
        """Return when what is kept for ``days`` goes (epoch seconds): never after the job's description."""
        limit = min((d for d in (days, self.jobs_days) if d), default=None)
        if limit is None or job.ended_at is None:
            return None
        end = job.ended_at + limit * DAY_S
        if job.warned_at is not None and letters.wanted(job):
            end = max(end, job.warned_at + self.lead_s(limit))
        return end

    def lead_s(self, days: float) -> float:
        """Return how long before its end of something that is kept for ``days`` its owner is warned, in seconds."""
        return min(self.warn_days, days / 2) * DAY_S

    def sentence(self) -> str:
        """Return how long things are kept, for the foot of a letter."""

        def kept(days: float) -> str:
            return f"for {days:g} {'day' if days == 1 else 'days'}" if days else "for ever"

        return (
            f"After a job's end its standard output is kept {kept(self.stdout_days)}, its output files "
            f"{kept(self.outputs_days)}, its description {kept(self.jobs_days)}."
        )


@dataclass(frozen=True)
class Due:
    """Jobs of which something is over its time, by what is to be removed; the oldest first."""

    stdout: tuple[int, ...]
    outputs: tuple[int, ...]
    jobs: tuple[int, ...]
    workflows: tuple[int, ...]


def shown(
    job: Job, keep: Retention, now: float, directory: Mapping[str, int] | None = None, missing: bool = False
) -> dict[str, Any]:
    """Return what a description says of how long a finished job's things are kept; times are epoch seconds.

    ``directory`` is what is to be said of its directory on its node, which matters most where outputs are ``missing``.
    """
    view: dict[str, Any] = {}
    going: list[tuple[float, str]] = []

    def add(key: str, title: str, days: float, gone_at: float | None) -> None:
        if gone_at is not None:
            view[key] = {"removed": int(gone_at)}
            return
        until = keep.until(job, days)
        if until is not None:
            view[key] = {"until": int(until)}
            if now >= until - keep.lead_s(days or keep.jobs_days):
                going.append((until, f"{title} will be removed on {letters.day(until)}"))

    if job.started_at is not None:
        add("stdout", "Standard output", keep.stdout_days, job.stdout_gone_at)
    if has_outputs(job):
        add("outputs", "Output files", keep.outputs_days, job.outputs_gone_at)
    if directory:
        view["directory"] = dict(directory)
    if directory and missing and "until" in directory and job.outputs_gone_at is None:
        until = directory["until"]
        going.append((until, f"The job's directory, with outputs that are not stored, goes at {letters.moment(until)}"))
    add("description", "All about this job", keep.jobs_days, None)
    if going:
        view["warning"] = "; ".join(sentence for _, sentence in sorted(going))
    return view


def has_outputs(job: Job) -> bool:
    """Tell whether the job's document asks for output files that are kept here."""
    asked = job.document.get("outputFiles") or job.document.get("outputDirs")
    return bool(asked) and not outputs.on_users_storage(job)


def due(session: Session, keep: Retention, now: float, limit: int) -> Due:
    """Return at most ``limit`` jobs of each kind of which something is to be removed."""

    def ids(days: float, *there: ColumnElement[bool]) -> tuple[int, ...]:
        if not days:
            return ()
        warned = or_(text(f"NOT ({WANTS_LETTERS})"), Job.warned_at <= now - keep.lead_s(days))
        query = (
            select(Job.id)
            .where(Job.phase == DONE, Job.ended_at <= now - days * DAY_S, *there)
            .where(*([] if not keep.warn_days else [warned]))
            .order_by(Job.ended_at)
            .limit(limit)
        )
        return tuple(session.scalars(query))

    return Due(
        stdout=ids(keep.stdout_days, Job.stdout_gone_at.is_(None)),
        outputs=ids(keep.outputs_days, Job.outputs_gone_at.is_(None)),
        jobs=ids(keep.jobs_days, Job.released_at.is_not(None), _nobody_needs(keep, now)),
        workflows=_empty_workflows(session, keep, now, limit) if keep.jobs_days else (),
    )


def _nobody_needs(keep: Retention, now: float) -> ColumnElement[bool]:
    """Whether a job is part of no workflow, or of one that is over its time with all that was made of it.

    A rerun shows the output of jobs that it kept, so what it is made of stays as long as itself.
    """
    over, again = Workflow.ended_at <= now - keep.jobs_days * DAY_S, aliased(Workflow)
    younger = or_(again.ended_at.is_(None), again.ended_at > now - keep.jobs_days * DAY_S)
    needed = exists().where(again.rerun_of == Workflow.id, younger)
    return or_(Job.workflow_id.is_(None), exists().where(Workflow.id == Job.workflow_id, over, ~needed))


def _empty_workflows(session: Session, keep: Retention, now: float, limit: int) -> tuple[int, ...]:
    over = Workflow.ended_at <= now - keep.jobs_days * DAY_S
    query = select(Workflow.id).where(over, ~exists().where(Job.workflow_id == Workflow.id))
    return tuple(session.scalars(query.order_by(Workflow.id).limit(limit)))


def remove_stdout(session: Session, job_id: int, keep: Retention, now: float) -> bool:
    """Remove a finished job's standard output and error of all attempts, if it is still time."""
    job = _locked(session, job_id, keep.stdout_days, now)
    if job is None or job.stdout_gone_at is not None:
        return False
    session.execute(delete(Output).where(Output.job_id == job_id))
    job.stdout_gone_at = now
    if job.started_at is not None:
        tell(session, job, "stdout_gone", f"Standard output was removed after {keep.stdout_days:g} days", now)
    return True


def remove_outputs(session: Session, job_id: int, keep: Retention, now: float, delete_below: DeleteBelow) -> bool:
    """Remove a finished job's output files and snapshots, if it is still time."""
    job = _locked(session, job_id, keep.outputs_days, now)
    if job is None or job.outputs_gone_at is not None:
        return False
    _delete_objects(job, delete_below)
    if not outputs.on_users_storage(job):
        session.execute(delete(StagedOutput).where(StagedOutput.job_id == job_id))
    job.outputs_gone_at = now
    if has_outputs(job):
        tell(session, job, "outputs_gone", f"Output files were removed after {keep.outputs_days:g} days", now)
    return True


def forget_job(session: Session, job_id: int, keep: Retention, now: float, delete_below: DeleteBelow) -> bool:
    """Remove a finished job with all that is left of it, if it is still time; what it used stays in the books."""
    job = _locked(session, job_id, keep.jobs_days, now)
    if job is None or job.released_at is None:
        return False
    if job.outputs_gone_at is None:
        _delete_objects(job, delete_below)
    accounting.keep(session, job_id)
    session.execute(delete(Job).where(Job.id == job_id))
    return True


def forget_workflow(session: Session, workflow_id: int) -> tuple[str, str] | None:
    """Remove a workflow all of whose jobs are gone; return its DAG and run, for Airflow's part of it."""
    workflow = session.get(Workflow, workflow_id, with_for_update=True)
    if workflow is None or session.scalar(select(Job.id).where(Job.workflow_id == workflow_id).limit(1)) is not None:
        return None
    session.delete(workflow)
    session.flush()
    return workflow.dag_id, workflow.run_id


def leave_queues(session: Session, keep: Retention, now: float) -> int:
    """Take finished jobs out of the queue whose owners never did; return how many."""
    if not keep.in_queue_days:
        return 0
    over = and_(Job.in_queue, Job.phase == DONE, Job.ended_at <= now - keep.in_queue_days * DAY_S)
    left = session.execute(update(Job).where(over).values(in_queue=False).execution_options(synchronize_session=False))
    flows = and_(Workflow.in_queue, Workflow.ended_at <= now - keep.in_queue_days * DAY_S)
    session.execute(update(Workflow).where(flows).values(in_queue=False).execution_options(synchronize_session=False))
    return int(getattr(left, "rowcount", 0))


def _locked(session: Session, job_id: int, days: float, now: float) -> Job | None:
    job = lock_job(session, job_id)
    if job is None or job.phase != DONE or job.ended_at is None or job.ended_at > now - days * DAY_S:
        return None
    return job


def _delete_objects(job: Job, delete_below: DeleteBelow) -> None:
    for folder in ("scratch", "snapshots"):
        delete_below(f"{folder}/{job.uid}")
