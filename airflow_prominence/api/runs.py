"""What Airflow's runs mean for jobs: whose job a run drives, and what follows when somebody ends one there."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import _compat, documents
from airflow_prominence._compat import RunFacts
from airflow_prominence.api import adoption, authored, submission
from airflow_prominence.api.errors import ApiError
from airflow_prominence.dags import submit as dags
from airflow_prominence.dags.names import PHASE_TASKS, STAGE_OUT, WORKFLOW_DAG_ID
from airflow_prominence.store import queries, restaging, shares, transitions, workflows
from airflow_prominence.store.housekeeping import jobs_of_run, unfinished_runs
from airflow_prominence.store.phases import COMPLETED, DONE, QUEUED
from airflow_prominence.store.restaging import Restaging
from airflow_prominence.store.tables import Job, Workflow

log = logging.getLogger(__name__)

ENDED_IN_AIRFLOW = "Job deleted by user"
_NOT_WELL = frozenset({"failed", "upstream_failed", "skipped"})
_OVER = _NOT_WELL | {"removed", "success"}


def job_of_task(
    session: Session,
    dag_id: str,
    run_id: str,
    group_id: str,
    slot: int,
    task_id: str,
    document: object,
    *,
    holds: bool = False,
) -> Job:
    """Return the job of a task in a DAG that somebody has written; ``document`` is what the task says it runs."""
    job = authored.job_of_task(session, dag_id, run_id, group_id, slot, task_id, document, holds=holds)
    return _with_own_stage_out(session, _as_cleared(session, job))


def job_of_run(session: Session, dag_id: str, run_id: str, group_id: str = "", slot: int = -1) -> Job:
    """Return the job that a run's group of tasks drives; make it if the run was started in Airflow.

    The owner is who pressed the button, as Airflow recorded it; conf's own job id is never believed.
    """
    job = queries.job_of_run(session, dag_id, run_id, group_id, slot)
    if job is not None:
        return _with_own_stage_out(session, _as_cleared(session, job))
    run = dags.run_facts(session, dag_id, run_id)
    if run is None:
        raise ApiError(400, f"There is no run {run_id} of DAG {dag_id}")
    if group_id:
        adoption.workflow_of_run(session, dag_id, run_id, run)
        made = queries.job_of_run(session, dag_id, run_id, group_id)
        if made is None:
            raise ApiError(400, f"The run's workflow has no job of the group {group_id}")
        return _with_own_stage_out(session, _as_cleared(session, made))
    return _with_own_stage_out(session, _as_cleared(session, _job_of_conf(session, dag_id, run_id, run)))


def _job_of_conf(session: Session, dag_id: str, run_id: str, run: RunFacts) -> Job:
    document = run.conf.get("job")
    if document is None:
        raise ApiError(400, "job: is missing; give the job's document in the trigger form")
    if not run.user:
        raise ApiError(400, "The run was started by no user, so its job would have no owner")
    try:
        return submission.adopt_run(session, dag_id, run_id, document, submission.Owner(run.user))
    except documents.DocumentError as refused:
        raise ApiError(400, f"job.{refused}" if refused.path else f"job: {refused}") from None


def begin_share(session: Session, dag_id: str, run_id: str, task_id: str, chunk: int) -> shares.Share:
    """Return the share of a factory's jobs that a task drives, all of them wanting their places from now on."""
    if workflows.workflow_of_run(session, dag_id, run_id) is None:
        run = dags.run_facts(session, dag_id, run_id)
        if run is None:
            raise ApiError(400, f"There is no run {run_id} of DAG {dag_id}")
        adoption.workflow_of_run(session, dag_id, run_id, run)
    try:
        task, chunks = dags.share_task(session, dag_id, run_id, task_id, chunk)
    except dags.DagMissing as missing:
        raise ApiError(400, str(missing)) from None
    share = shares.Share(dag_id, run_id, task_id, chunk, chunks)
    if not task.ended:
        shares.begin(session, share, task.id)
    return share


def _as_cleared(session: Session, job: Job) -> Job:
    """Open a new attempt of the job if its task ``run`` has been cleared in Airflow since the last one was opened.

    Clearing gives a task instance a new id, and the job remembers the one it was begun for: so whichever of the
    run's tasks comes first notices, and only once. A task ``run`` that is over already will drive nothing.
    """
    task = dags.run_task(session, job.dag_id, job.run_id, job.group_id, job.slot)
    if task is None or task.id == job.run_ti:
        return job
    locked = transitions.lock_job(session, job.id)
    # Looked at again: another transaction may have seen a later clearing before we had the lock.
    task = dags.run_task(session, job.dag_id, job.run_id, job.group_id, job.slot)
    if locked is None or task is None or task.ended or task.id == locked.run_ti:
        return job
    known, locked.run_ti = locked.run_ti, task.id
    # A job that could not start, as one before it had failed, may now that Airflow starts it.
    if (known is not None and locked.phase != QUEUED) or locked.reason == workflows.NOT_STARTED:
        transitions.begin_again(session, locked)
        log.info("job %s was cleared in Airflow: attempt %s", locked.id, locked.attempt)
    session.flush()
    return locked


def _with_own_stage_out(session: Session, job: Job) -> Job:
    """Note which instance of the task ``stage_out`` there is before the job's end: a later one is a wish of its own."""
    if job.phase == DONE and job.stage_out_ti is not None:
        return job
    task = dags.stage_out_task(session, job.dag_id, job.run_id, job.group_id, job.slot)
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
    task = dags.stage_out_task(session, job.dag_id, job.run_id, job.group_id, job.slot)
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


def workflow_cancelled(session: Session, workflow_id: int, ti_id: str, try_number: int) -> bool:
    """The same for the task that made a workflow of a document: the workflow is deleted."""
    task = dags.find_task_instance(session, ti_id)
    workflow = session.get(Workflow, workflow_id)
    if task is None or workflow is None or task.try_number != try_number or task.state != "failed":
        return False
    if task.dag_id != WORKFLOW_DAG_ID or task.run_id != workflow.launcher:
        return False
    return workflows.delete_workflow(session, workflow_id, None)


def share_cancelled(session: Session, share: shares.Share, ti_id: str, try_number: int) -> bool:
    """The same for the trigger of a share of a factory's jobs: those that are not over are ended."""
    task = dags.find_task_instance(session, ti_id)
    if task is None or task.try_number != try_number or task.state != "failed":
        return False
    if (task.dag_id, task.run_id, task.task_id, task.map_index) != (
        share.dag_id,
        share.run_id,
        share.group_id,
        share.chunk,
    ):
        return False
    return sum(transitions.delete(session, job, None, ENDED_IN_AIRFLOW) for job in shares.active(session, share)) > 0


def outcome(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Tell how a run's job or workflow ended; asked when all its phase tasks are over.

    A job that is not done then has nobody who would drive it: its run was ended in Airflow, so the job is, too.
    """
    workflow = workflows.workflow_of_run(session, dag_id, run_id)
    if workflow is not None:
        return _workflow_outcome(session, workflow)
    job = queries.job_of_run(session, dag_id, run_id)
    if job is None:
        return {"success": False, "pending": False, "reason": "The run has no job"}
    states = dags.phase_task_states(session, dag_id, run_id)
    if job.phase != DONE:
        if _ended_by_hand(states, PHASE_TASKS):
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


def _ended_by_hand(states: Mapping[str, str | None], tasks: Collection[str]) -> bool:
    """Whether the tasks of an active job are all over, and not because it went well."""
    all_well = all(states.get(task) == "success" for task in tasks)
    return bool(tasks) and not all_well and all(states.get(task) in _OVER for task in tasks)


def _workflow_outcome(session: Session, workflow: Workflow) -> dict[str, Any]:
    workflows.settle_workflow(session, workflow.id)
    session.refresh(workflow)
    if workflow.ended_at is None:
        _end_undriven(session, workflow)
        workflows.settle_workflow(session, workflow.id)
        session.refresh(workflow)
    if workflow.ended_at is None:
        progress = workflows.progress_of(session, workflow.id)
        over = progress["done"] + progress["failed"]
        return {"success": False, "pending": True, "reason": f"{over} of {progress['total']} jobs are over"}
    success = workflow.status == COMPLETED
    reason = workflow.reason or f"The workflow is {workflow.status}"
    by_hand = dags.tasks_not_well(session, workflow.dag_id, workflow.run_id) if success else []
    if by_hand:
        success = False
        reason = f"The workflow is {workflow.status}, but its task {by_hand[0]} was ended by hand in Airflow"
    return {"success": success, "pending": False, "reason": reason}


def _end_undriven(session: Session, workflow: Workflow) -> None:
    """End the jobs whose tasks were ended in Airflow; all of the workflow, if its run was marked as failed there.

    Nothing else than that skips the first task of a job.
    """
    tasks = dags.tasks_by_group(session, workflow.dag_id, workflow.run_id)
    undriven = []
    for job_id, group_id, slot in workflows.unfinished(session, workflow.id):
        of_group = tasks.get(group_id, {})
        states = of_group.get(slot % len(of_group), {}) if slot >= 0 and of_group else of_group.get(-1, {})
        if any(state == "skipped" for task, state in states.items() if task != STAGE_OUT):
            workflows.delete_workflow(session, workflow.id, None)
            return
        if _ended_by_hand(states, list(states)):
            undriven.append(job_id)
    for job_id in undriven:
        transitions.delete(session, job_id, None, ENDED_IN_AIRFLOW)


def end_jobs_without_run(session: Session) -> list[int]:
    """Delete jobs whose run in Airflow is over or gone though they are not, e.g. failed before anything started."""
    runs = unfinished_runs(session)
    states = _compat.runs_states(session, runs)
    ended: list[int] = []
    for dag_id, run_id in runs:
        state = states.get((dag_id, run_id))
        if state in ("queued", "running"):
            continue
        workflow = workflows.workflow_of_run(session, dag_id, run_id)
        if workflow is not None and workflows.delete_workflow(session, workflow.id, None):
            log.info("workflow %s is ended: its run is %s", workflow.id, state or "gone")
            ended.append(workflow.id)
            continue
        for job_id in jobs_of_run(session, dag_id, run_id):
            if transitions.delete(session, job_id, None, ENDED_IN_AIRFLOW):
                log.info("job %s is ended: its run is %s", job_id, state or "gone")
                ended.append(job_id)
    return ended
