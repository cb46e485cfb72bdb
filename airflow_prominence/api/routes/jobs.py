"""``/jobs``: submit, list, describe, delete and read the output of one's jobs (``prominence.md`` 1.1, 3)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from airflow_prominence.api import staging, submission
from airflow_prominence.api.auth import Caller, CallerDep
from airflow_prominence.api.body import read_json
from airflow_prominence.api.database import read, transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.output import stream
from airflow_prominence.api.parameters import constraints_of, count, flag, number_of, numbers, status_of, without_nul
from airflow_prominence.api.settings import settings
from airflow_prominence.api.uploads import kept_uploads
from airflow_prominence.store import queries, transitions
from airflow_prominence.store.phases import DONE
from airflow_prominence.store.submission import secrets_of
from airflow_prominence.store.tables import Job

router = APIRouter(tags=["jobs"])

NO_JOB = "Job does not exist"
NO_JOBS = "No such job(s)"
NOT_IN_QUEUE = "Job is no longer in the queue"


Text = Annotated[str | None, Query()]


@router.post("/jobs", status_code=201, summary="Submit a job")
async def create_job(
    request: Request, caller: CallerDep, idempotency_key: Annotated[str | None, Header()] = None
) -> JSONResponse:
    """Validate a job document and queue it; the answer is its id."""
    value = await read_json(request, settings().max_body)
    job_id = await run_in_threadpool(submission.submit, value, caller, idempotency_key)
    return JSONResponse({"id": job_id}, status_code=201)


@router.get("/jobs", summary="List one's jobs")
def list_jobs(
    caller: CallerDep,
    completed: Text = None,
    num: Text = None,
    every: Annotated[str | None, Query(alias="all")] = None,
    status: Text = None,
    name: Text = None,
    detail: Text = None,
    ids: Annotated[str | None, Query(alias="id")] = None,
    workflow: Text = None,
    constraint: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Return active jobs and finished ones still in the queue, or the last ``num`` finished ones, or ``all``.

    With ``workflow`` the ``id`` is that of a workflow, whose jobs are listed.
    """
    of_workflow = flag(workflow)
    if of_workflow and not ids:
        raise ApiError(400, "id: must be the id of a workflow")
    constraints = constraints_of(constraint or [])
    want = queries.JobFilter(
        owner=caller.name,
        completed=flag(completed),
        everything=every is not None,
        num=-1 if of_workflow else count(num),
        status=status_of(status),
        name=None if name is None else without_nul(name, "name"),
        constraints=constraints or {},
        ids=None if ids is None or of_workflow else numbers(ids),
        workflows=numbers(ids) if of_workflow and ids is not None else None,
        only_job=caller.only_job,
    )
    if constraints is None:
        return JSONResponse([])
    if detail is not None:
        return JSONResponse(read(lambda session: [_described(session, job) for job in queries.jobs(session, want)]))
    return Response(read(lambda session: queries.summaries(session, want)), media_type="application/json")


@router.delete("/jobs", summary="Delete several jobs")
def delete_jobs(caller: CallerDep, ids: Annotated[str | None, Query(alias="id")] = None) -> JSONResponse:
    """End the given jobs; it is enough if one of them was still active."""
    if not ids:
        raise ApiError(400, "a job id or list of job ids must be provided")
    return _delete(caller, numbers(ids))


@router.get("/jobs/{job_id}", summary="Describe a job")
def describe_job(job_id: str, caller: CallerDep) -> JSONResponse:
    """Return a list of one job in full, or an empty list for what isn't one's own."""

    def work(session: Session) -> list[dict[str, Any]]:
        job = find_own(session, job_id, caller)
        if job is None:
            return []
        view = _described(session, job)
        if job.phase == DONE and (ends := kept_uploads(session, job, settings().kept)):
            view.setdefault("execution", {}).setdefault("retention", {})["uploads"] = ends
        return [view]

    return JSONResponse(read(work))


def _described(session: Session, job: Job) -> dict[str, Any]:
    source = queries.source_of(session, job) or job
    return staging.with_urls(queries.describe(session, job, settings().kept), source)


@router.delete("/jobs/{job_id}", summary="Delete a job")
def delete_job(job_id: str, caller: CallerDep) -> JSONResponse:
    """End a job: its containers are killed, its status becomes ``deleted``."""
    return _delete(caller, numbers(job_id))


@router.put("/jobs/{job_id}", include_in_schema=False)
@router.patch("/jobs/{job_id}", include_in_schema=False)
def change_job() -> JSONResponse:
    """Refuse: jobs cannot be modified after they are created (manual 4.4)."""
    return JSONResponse({"error": "A job cannot be changed"}, status_code=405, headers={"Allow": "GET, DELETE"})


@router.put("/jobs/{job_id}/clone", status_code=201, summary="Submit a job once more")
def clone_job(job_id: str, caller: CallerDep) -> JSONResponse:
    """Submit the document of a job again, whatever became of it, its secrets included; the answer is the new id."""
    caller.require_act()

    def original(session: Session) -> tuple[dict[str, Any], dict[str, Any] | None]:
        job = find_own(session, job_id, caller)
        if job is None:
            raise ApiError(400, NO_JOB)
        return submission.secrets_restored(job.document, secrets_of(session, job)), job.parameters

    document, parameters = transact(original)
    return JSONResponse({"id": submission.submit(document, caller, None, parameters)}, status_code=201)


@router.put("/jobs/{job_id}/remove", summary="Remove a job from the queue")
def remove_job(job_id: str, caller: CallerDep) -> JSONResponse:
    """Let a job with ``leaveInQueue`` leave the list of active jobs, at once or with its end."""
    caller.require_act()

    def work(session: Session) -> None:
        job = find_own(session, job_id, caller)
        if job is None:
            raise ApiError(400, NO_JOB)
        if not transitions.leave_queue(session, job.id, caller.name):
            raise ApiError(400, NOT_IN_QUEUE)

    transact(work)
    return JSONResponse({})


@router.get("/jobs/{job_id}/stdout", summary="Standard output of a job")
def read_stdout(job_id: str, caller: CallerDep, node: Text = None, offset: Text = None) -> Response:
    """Return the raw bytes from ``offset`` on, of node ``node`` (0), while the job runs and after."""
    return _output(job_id, caller, "stdout", node, offset)


@router.get("/jobs/{job_id}/stderr", summary="Standard error of a job")
def read_stderr(job_id: str, caller: CallerDep, node: Text = None, offset: Text = None) -> Response:
    """Return the raw bytes from ``offset`` on, of node ``node`` (0), while the job runs and after."""
    return _output(job_id, caller, "stderr", node, offset)


def _output(job_id: str, caller: Caller, which: str, node: str | None, offset: str | None) -> Response:
    def find(session: Session) -> Job:
        job = find_own(session, job_id, caller)
        if job is None:
            raise ApiError(400, NO_JOB)
        return job

    return stream(find, which, node, offset)


def _delete(caller: Caller, ids: list[int]) -> JSONResponse:
    caller.require_act()

    def end(job_id: int) -> bool:
        return transact(lambda session: transitions.delete(session, job_id, caller.name))

    if not [job_id for job_id in ids if end(job_id)]:
        raise ApiError(400, NO_JOBS)
    return JSONResponse({})


def find_own(session: Session, job_id: str, caller: Caller) -> Job | None:
    """Return the job if it is the caller's; whose else it may be makes no difference."""
    number = number_of(job_id)
    if number is None or caller.only_job not in (None, number):
        return None
    return queries.find_job(session, number, caller.name)
