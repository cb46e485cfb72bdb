"""What Airflow's runs mean for jobs: whose job a run drives, and what follows when somebody ends one there."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api import submission
from airflow_prominence.api.errors import ApiError
from airflow_prominence.dags import submit as dags
from airflow_prominence.dags.names import PHASE_TASKS
from airflow_prominence.store import queries, restaging, transitions
from airflow_prominence.store.phases import DONE, QUEUED
from airflow_prominence.store.restaging import Restaging
from airflow_prominence.store.tables import Job

log = logging.getLogger(__name__)

ENDED_IN_AIRFLOW = "Job deleted by user"
_NOT_WELL = frozenset({"failed", "upstream_failed", "skipped"})
_OVER = _NOT_WELL | {"removed", "success"}


def job_of_run(session: Session, dag_id: str, run_id: str) -> Job:
    """Return the job a run drives; make it if the run was started in Airflow with a document in its conf.

    The owner is who pressed the button, as Airflow recorded it; conf's own job id is never believed.
    """
    job = queries.job_of_run(session, dag_id, run_id)
    if job is not None:
        return _with_own_stage_out(session, _as_cleared(session, job))
    run = dags.run_facts(session, dag_id, run_id)
    if run is None:
        raise ApiError(400, f"There is no run {run_id} of DAG {dag_id}")
    document = run.conf.get("job")
    if document is None:
        raise ApiError(400, "job: is missing; give the job's document in the trigger form")
    if not run.user:
        raise ApiError(400, "The run was started by no user, so its job would have no owner")
    try:
        made = submission.adopt_run(session, dag_id, run_id, document, submission.Owner(run.user))
    except documents.DocumentError as refused:
        raise ApiError(400, f"job.{refused}" if refused.path else f"job: {refused}") from None
    return _with_own_stage_out(session, _as_cleared(session, made))


def _as_cleared(session: Session, job: Job) -> Job:
    """Open a new attempt of the job if its task ``run`` has been cleared in Airflow since the last one was opened.

    Clearing gives a task instance a new id, and the job remembers the one it was begun for: so whichever of the
    run's tasks comes first notices, and only once. A task ``run`` that is over already will drive nothing.
    """
    task = dags.run_task(session, job.dag_id, job.run_id)
    if task is None or task.id == job.run_ti:
        return job
    locked = transitions.lock_job(session, job.id)
    # Looked at again: another transaction may have seen a later clearing before we had the lock.
    task = dags.run_task(session, job.dag_id, job.run_id)
    if locked is None or task is None or task.ended or task.id == locked.run_ti:
        return job
    known, locked.run_ti = locked.run_ti, task.id
    if known is not None and locked.phase != QUEUED:
        transitions.begin_again(session, locked)
        log.info("job %s was cleared in Airflow: attempt %s", locked.id, locked.attempt)
    session.flush()
    return locked


def _with_own_stage_out(session: Session, job: Job) -> Job:
    """Note which instance of the task ``stage_out`` there is before the job's end: a later one is a wish of its own."""
    if job.phase == DONE and job.stage_out_ti is not None:
        return job
    task = dags.stage_out_task(session, job.dag_id, job.run_id, job.group_id)
    if task is None or task.id == job.stage_out_ti:
        return job
    locked = transitions.lock_job(session, job.id)
    if locked is not None and (locked.phase != DONE or locked.stage_out_ti is None):
        locked.stage_out_ti = task.id
        session.flush()
    return job


def stage_out_again(session: Session, job_id: int, ti_id: str) -> Restaging | None:
    """Upload an ended job's outputs again, once for each later instance of its task ``stage_out``; tell how it stands.

    ``None`` if there is nothing to do but to answer what is true of the job.
    """
    job = transitions.lock_job(session, job_id)
    if job is None:
        raise ApiError(400, "Job does not exist")
    if job.phase != DONE or job.stage_out_ti in (None, ti_id) or not restaging.has_staged_out(session, job):
        return None
    task = dags.stage_out_task(session, job.dag_id, job.run_id, job.group_id)
    if task is None or task.id != ti_id or task.ended:
        raise ApiError(409, "This task is over, or was cleared again")
    return restaging.ask(session, job, ti_id)


def task_cancelled(session: Session, job_id: int, ti_id: str, try_number: int) -> bool:
    """End the job whose trigger was cancelled, if its task was failed by somebody.

    A trigger is cancelled too when its triggerer was only slow and another has taken it over
    (``mechanics.md`` 0.1): then the task instance is still deferred, and nothing happens here. A cleared task has
    a new id and a new try, whose trigger looks after the job.
    """
    job = session.get(Job, job_id)
    task = dags.find_task_instance(session, ti_id)
    if job is None or task is None or task.try_number != try_number:
        return False
    if (task.dag_id, task.run_id) != (job.dag_id, job.run_id) or task.state != "failed":
        return False
    restaging.leave(session, job_id, ti_id)
    return transitions.delete(session, job_id, None, ENDED_IN_AIRFLOW)


def outcome(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Tell how a run's job ended; asked when all its phase tasks are over.

    A job that is not done then has nobody who would drive it: its run was ended in Airflow, so the job is, too.
    """
    job = queries.job_of_run(session, dag_id, run_id)
    if job is None:
        return {"success": False, "pending": False, "reason": "The run has no job"}
    states = dags.phase_task_states(session, dag_id, run_id)
    if job.phase != DONE:
        all_well = all(states.get(task) == "success" for task in PHASE_TASKS)
        if not all_well and all(states.get(task) in _OVER for task in PHASE_TASKS):
            transitions.delete(session, job.id, None, ENDED_IN_AIRFLOW)
            job = session.get_one(Job, job.id)
        else:
            return {"success": False, "pending": True, "reason": f"The job is {job.status}"}
    success = bool(job.node_success)
    reason = job.reason or ("" if success else f"The job is {job.status} without success of all its tasks")
    by_hand = [task for task in PHASE_TASKS if states.get(task) in _NOT_WELL] if success else []
    if by_hand:
        how = "was cleared or ended by hand in Airflow and did not end well"
        success, reason = False, f"The job is {job.status}, but its task {by_hand[0]} {how}"
    return {"success": success, "pending": False, "reason": reason}


def end_jobs_without_run(session: Session) -> list[int]:
    """Delete jobs whose run in Airflow is over or gone though they are not, e.g. failed before anything started."""
    from airflow_prominence import _compat
    from airflow_prominence.store.housekeeping import unreleased

    jobs = unreleased(session)
    states = _compat.runs_states(session, {(job.dag_id, job.run_id) for job in jobs})
    ended = []
    for job in jobs:
        state = states.get((job.dag_id, job.run_id))
        if state in ("queued", "running"):
            continue
        if transitions.delete(session, job.id, None, ENDED_IN_AIRFLOW):
            log.info("job %s is ended: its run is %s", job.id, state or "gone")
            ended.append(job.id)
    return ended
