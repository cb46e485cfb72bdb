"""Jobs of tasks in DAGs that people write: the task brings the document, Airflow's rows say whose the job is."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import _compat, documents
from airflow_prominence.api import submission
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.submission import Owner
from airflow_prominence.dags import submit as dags
from airflow_prominence.dags.names import PROVISION, RELEASE, RUN, STAGE_IN, STAGE_OUT, in_group
from airflow_prominence.store import holding, queries, transitions, workflows
from airflow_prominence.store.phases import DONE, FAILED, READY, RUNNING, STAGING_IN, STAGING_OUT
from airflow_prominence.store.submission import insert_job, next_id
from airflow_prominence.store.tables import Job

log = logging.getLogger(__name__)

#: What a job may enter as the task of a phase begins.
_ENTERS = {PROVISION: READY, STAGE_IN: STAGING_IN, RUN: RUNNING, STAGE_OUT: STAGING_OUT, RELEASE: DONE}
_NOT_RUN = frozenset({"failed", "upstream_failed", "skipped", "removed"})

NOT_LET = "Job was not let go on in Airflow"
REPLACED = "Job was replaced: its task was cleared in Airflow and has another document"
_LONGEST_GROUP = 220


def job_of_task(
    session: Session,
    dag_id: str,
    run_id: str,
    group_id: str,
    slot: int,
    task_id: str,
    document: object,
    *,
    holds: bool,
) -> Job:
    """Return the job of an authored task or group; make it if there is none, or none of this document.

    A task that comes again, retried or cleared, keeps its job and has it tried again, unless its document has become
    another one meanwhile: then that is a job of its own, and what there was is ended if it still goes on.
    """
    _compat.lock_for_writing_dag(session, f"{dag_id} {run_id} {group_id} {slot}")
    job = queries.job_of_run(session, dag_id, run_id, group_id, slot)
    task = dags.run_task(session, dag_id, run_id, group_id, slot)
    if job is not None and (task is None or task.ended or task.id == job.run_ti):
        return job
    owner = owner_of_task(session, dag_id, run_id, task_id)
    try:
        new = submission.prepare(document, Owner(owner))
    except documents.DocumentError as refused:
        raise ApiError(400, f"job.{refused}" if refused.path else f"job: {refused}") from None
    for path in new.secrets:
        raise ApiError(400, f"job.{path}: is a secret, which has no place in a DAG")
    if job is not None:
        if job.owner == owner and _same(job.document, new.document):
            return job
        _put_aside(session, job)
    made = insert_job(session, next_id(session), new, dag_id, run_id, group_id, slot)
    made.run_ti = None if task is None else task.id
    made.allowed = holding.AT_FIRST if holds else None
    session.flush()
    return made


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _put_aside(session: Session, job: Job) -> None:
    """Let another job take this one's place in its run; no task id has such a sign in it."""
    transitions.delete(session, job.id, None, REPLACED)
    locked = transitions.lock_job(session, job.id)
    if locked is not None:
        locked.group_id = f"{locked.group_id[:_LONGEST_GROUP]}~{locked.id}"
        session.flush()
        log.info("job %s was replaced: its task has another document", locked.id)


def owner_of_task(session: Session, dag_id: str, run_id: str, task_id: str) -> str:
    """Return whose the jobs of a task are: who started its run or, if no person did, whom the DAG's file names.

    A backfill is of who has asked for it: with values of that user's choice, it must not act for another.
    Raises ApiError if the file names nobody.
    """
    run = dags.run_facts(session, dag_id, run_id)
    if run is None:
        raise ApiError(400, f"There is no run {run_id} of DAG {dag_id}")
    if run.user:
        return run.user
    owner = _compat.task_owner(session, dag_id, run_id, task_id)
    if not owner:
        sentence = "names no owner, and the run was started by no user: give its DAG default_args={'owner': …}"
        raise ApiError(400, f"Task {task_id} of DAG {dag_id} {sentence}")
    return owner


def let_go_on(session: Session, job_id: int, phase: str, ti_id: str) -> Job | None:
    """Let a job that holds go on, as the task of a phase has begun; end it if its tasks will never be let run.

    Only an instance of a task that is alive has a say: the trigger of one that was cleared may live on for a while.
    """
    if phase not in _ENTERS:
        raise ApiError(400, f"phase: must be one of {', '.join(_ENTERS)}")
    job = transitions.lock_job(session, job_id)
    task = dags.find_task_instance(session, ti_id)
    if job is None or job.allowed is None or job.phase == DONE or task is None or task.ended:
        return job
    if (task.dag_id, task.run_id, task.task_id, task.map_index) != (
        job.dag_id,
        job.run_id,
        in_group(job.group_id, phase),
        job.slot,
    ):
        return job
    states = dags.phase_task_states(session, job.dag_id, job.run_id, job.group_id, job.slot)
    bad = [name for name, state in states.items() if state in _NOT_RUN]
    if phase == RELEASE or (phase == STAGE_OUT and in_group(job.group_id, RUN) in bad and job.tasks_success is None):
        # All that could let it go on is over.
        why = f": {bad[0]} is {states[bad[0]]}" if bad else ""
        transitions.finish(session, job, FAILED, f"{NOT_LET}{why}", final=True)
    else:
        holding.allow(session, job, _ENTERS[phase])
    return job


def look(
    session: Session, dag_id: str, run_id: str, task_id: str, job: int | None, workflow: int | None
) -> dict[str, Any]:
    """Return what a sensor waits for, if it belongs to whom the sensor's own jobs would belong."""
    owner = owner_of_task(session, dag_id, run_id, task_id)
    if job is not None:
        found = queries.find_job(session, job, owner)
        if found is None:
            raise ApiError(400, f"Job {job} does not exist, or is not {owner}'s")
        return {"job": queries.driver_view(session, found)}
    wanted = None if workflow is None else workflows.find_workflow(session, workflow, owner)
    if wanted is None:
        raise ApiError(400, f"Workflow {workflow} does not exist, or is not {owner}'s")
    progress = wanted.progress or workflows.progress_of(session, wanted.id)
    view = {
        "ended": wanted.ended_at is not None,
        "status": wanted.status,
        "reason": wanted.reason,
        "progress": progress,
    }
    return {"workflow": view}
