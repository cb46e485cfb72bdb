"""Internal routes of the driver: triggers claim, watch and ask; they never change a state themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from airflow_prominence.api import adoption, authored, housekeeper, retention, runs, staging
from airflow_prominence.api.auth import the_driver
from airflow_prominence.api.body import read_object
from airflow_prominence.api.database import transact_async
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.hub import hub
from airflow_prominence.api.uploads import settle_uploads
from airflow_prominence.store import queries, shares, transitions
from airflow_prominence.store.notify import JOB_CHANNEL
from airflow_prominence.store.shares import Share
from airflow_prominence.store.tables import Job

router = APIRouter(tags=["driver"], dependencies=[Depends(the_driver)])

#: A burst of changes is answered together: a triggerer looks at its triggers once a second anyway (seconds).
_GATHER_S = 0.2
_LONGEST_WATCH_S = 55.0


@router.post("/runs/{dag_id}/{run_id}/job", summary="The job of a run")
async def job_of_run(dag_id: str, run_id: str, request: Request) -> dict[str, Any]:
    """Return the job that a run's group of tasks drives; make it first if the run was started in Airflow.

    A task of a DAG that somebody has written has its ``document`` with it, of which its job is made.
    """
    body = await read_object(request)
    group, slot = str(body.get("group", "")), _number(body, "slot", -1)
    if "document" in body:
        task, document, holds = str(body.get("task_id")), body["document"], body.get("holds") is True
        return {
            "job": await transact_async(
                lambda s: _view(s, runs.job_of_task(s, dag_id, run_id, group, slot, task, document, holds=holds))
            )
        }
    return {"job": await transact_async(lambda s: _view(s, runs.job_of_run(s, dag_id, run_id, group, slot)))}


@router.post("/runs/{dag_id}/{run_id}/look", summary="What a sensor waits for")
async def look(dag_id: str, run_id: str, request: Request) -> dict[str, Any]:
    """Return a job or workflow, if it belongs to whom the jobs of the sensor's task would belong."""
    body = await read_object(request)
    task = str(body.get("task_id"))
    job = None if body.get("job") is None else _number(body, "job")
    workflow = None if body.get("workflow") is None else _number(body, "workflow")
    return await transact_async(lambda session: authored.look(session, dag_id, run_id, task, job, workflow))


@router.post("/runs/{dag_id}/{run_id}/workflow", summary="The workflow made by a run")
async def workflow_of_run(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the workflow that a run of the shared DAG has made of its document; make it first, once."""
    return {"workflow": await transact_async(lambda session: adoption.launched_by(session, dag_id, run_id))}


@router.post("/shares/begin", summary="The share of a factory's jobs that a task drives")
async def begin_share(request: Request) -> dict[str, Any]:
    """Let the jobs of a task's share want their places; return how many tasks share the factory's jobs."""
    body = await read_object(request)
    dag_id, run_id, task_id = str(body.get("dag_id")), str(body.get("run_id")), str(body.get("task_id"))
    chunk = _number(body, "map_index")
    share = await transact_async(lambda session: runs.begin_share(session, dag_id, run_id, task_id, chunk))
    return {"chunks": share.chunks}


@router.post("/shares/progress", summary="How far shares are")
async def progress_of_shares(request: Request) -> dict[str, Any]:
    """Return the counts of many shares at once, in the order of the question."""
    wanted = (await read_object(request)).get("shares")
    if not isinstance(wanted, list):
        raise ApiError(400, "shares: must be a list")
    asked = [_share(item) for item in wanted]
    return {"shares": await transact_async(lambda session: shares.progress(session, asked))}


@router.post("/shares/failures", summary="What went wrong in a share")
async def failures_of_share(request: Request) -> dict[str, Any]:
    """Return the first jobs of a share that did not end well."""
    share = _share(await read_object(request))
    return {"jobs": await transact_async(lambda session: shares.failures(session, share))}


@router.post("/jobs/{job_id}/claim", summary="Want capacity for a job")
async def claim(job_id: int, request: Request) -> dict[str, Any]:
    """Register the job as wanting nodes and give it some if it is its turn."""
    holder = str((await read_object(request)).get("holder", ""))
    return {"job": await transact_async(lambda s: _view(s, transitions.claim(s, job_id, holder)))}


@router.get("/jobs/{job_id}", summary="A job as its driver sees it")
async def get_job(job_id: int) -> dict[str, Any]:
    """Return the job with its story."""
    return {"job": await transact_async(lambda session: _view(session, session.get(Job, job_id)))}


@router.post("/jobs/{job_id}/go", summary="Let a job go on that holds")
async def go(job_id: int, request: Request) -> dict[str, Any]:
    """Let the job go on to the phase whose task has begun, or end it if it will never be let there."""
    body = await read_object(request)
    phase, ti_id = str(body.get("phase", "")), str(body.get("ti_id", ""))
    return {"job": await transact_async(lambda s: _view(s, authored.let_go_on(s, job_id, phase, ti_id)))}


@router.get("/jobs/{job_id}/outputs", summary="A job's stored outputs")
async def outputs(job_id: int) -> dict[str, Any]:
    """Return where they are; no URLs, for this comes to lie where more than the job's owner can read."""
    return {"outputs": await transact_async(lambda session: _outputs(session, session.get(Job, job_id)))}


@router.post("/jobs/{job_id}/stage_out", summary="Upload an ended job's outputs again")
async def stage_out(job_id: int, request: Request) -> dict[str, Any]:
    """Have it done once for this instance of the task; tell whether it is over, ``again`` if it is done at all."""
    ti_id = str((await read_object(request)).get("ti_id", ""))
    stands = await transact_async(lambda session: runs.stage_out_again(session, job_id, ti_id))
    if stands is None:
        return {"again": False}
    return {"again": True, "over": stands.over, "error": stands.error, "since": stands.since}


@router.post("/watch", summary="Wait for changes of jobs")
async def watch(request: Request) -> dict[str, Any]:
    """Answer as soon as any of the jobs has another version than the given one; renews their drivers' leases."""
    body = await read_object(request)
    holder, known = str(body.get("holder", "")), body.get("jobs")
    if not isinstance(known, dict) or not all(key.isdigit() and isinstance(v, int) for key, v in known.items()):
        raise ApiError(400, "jobs: must be an object of job ids and versions")
    have = {int(key): version for key, version in known.items()}
    timeout = min(float(body.get("timeout", 25)), _LONGEST_WATCH_S)
    await transact_async(lambda session: transitions.renew(session, holder, list(have)))

    async def look() -> list[int]:
        now = await transact_async(lambda session: queries.versions(session, list(have)))
        return [job_id for job_id, version in have.items() if now.get(job_id, version) != version]

    changed = await hub.wait_for(JOB_CHANNEL, list(have), look, timeout, turn=f"watch {holder}")
    if changed:
        await asyncio.sleep(_GATHER_S)
        changed = await look()
    return {"jobs": await transact_async(lambda session: _views(session, changed))}


@router.post("/tis/cancelled", summary="A trigger was cancelled")
async def cancelled(request: Request) -> dict[str, Any]:
    """End the job if its task was really ended by somebody; a trigger that merely moved changes nothing."""
    body = await read_object(request)
    ti_id, try_number = str(body.get("ti_id", "")), _number(body, "try_number")
    if "share" in body:
        share = _share(body["share"])
        acted = await transact_async(lambda session: runs.share_cancelled(session, share, ti_id, try_number))
    elif "workflow" in body:
        workflow_id = _number(body, "workflow")
        acted = await transact_async(lambda session: runs.workflow_cancelled(session, workflow_id, ti_id, try_number))
    else:
        job_id = _number(body, "job")
        acted = await transact_async(lambda session: runs.task_cancelled(session, job_id, ti_id, try_number))
    return {"acted": acted}


@router.post("/runs/{dag_id}/{run_id}/outcome", summary="How a run ended")
async def outcome(dag_id: str, run_id: str) -> dict[str, Any]:
    """Tell whether the run's job completed with node success; a job whose tasks are all over is ended first."""
    return await transact_async(lambda session: runs.outcome(session, dag_id, run_id))


@router.post("/maintenance", summary="One round of housekeeping")
async def maintenance() -> dict[str, int]:
    """Do what the API's own housekeeper does, and what needs Airflow's tables; answer how much of each."""
    done = await transact_async(housekeeper.maintain)
    settled = await run_in_threadpool(settle_uploads)
    return {**done, "settled_uploads": settled, **await run_in_threadpool(retention.sweep)}


def _number(body: dict[str, Any], key: str, default: int = 0) -> int:
    value = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(400, f"{key}: must be an integer")
    return value


def _share(item: Any) -> Share:
    if not isinstance(item, dict):
        raise ApiError(400, "shares: must be objects")
    chunks = _number(item, "chunks")
    if chunks < 1:
        raise ApiError(400, "chunks: must be at least 1")
    where = (str(item.get("dag_id")), str(item.get("run_id")), str(item.get("task_id")))
    return Share(*where, chunk=_number(item, "map_index"), chunks=chunks)


def _view(session: Session, job: Job | None) -> dict[str, Any]:
    if job is None:
        raise ApiError(400, "Job does not exist")
    return queries.driver_view(session, job)


def _outputs(session: Session, job: Job | None) -> list[dict[str, Any]]:
    if job is None:
        raise ApiError(400, "Job does not exist")
    return staging.stored_outputs(session, job)


def _views(session: Session, ids: list[int]) -> list[dict[str, Any]]:
    jobs = [session.get(Job, job_id) for job_id in ids]
    return [queries.driver_view(session, job) for job in jobs if job is not None]
