"""``/workflows``: submit, list, describe, delete, rerun, and the output of their jobs (``prominence.md`` 1.2, 3.4)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from airflow_prominence.api import workflows as making
from airflow_prominence.api.auth import Caller, CallerDep
from airflow_prominence.api.body import read_json
from airflow_prominence.api.database import read, transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.output import stream
from airflow_prominence.api.parameters import constraints_of, count, flag, number_of, numbers, status_of, without_nul
from airflow_prominence.api.settings import settings
from airflow_prominence.store import workflows, workflowviews
from airflow_prominence.store.tables import Job, Workflow

router = APIRouter(tags=["workflows"])

NO_WORKFLOW = "Workflow does not exist"
NO_WORKFLOWS = "No such workflow(s)"
NOT_IN_QUEUE = "Workflow is no longer in the queue"
#: What the database can be asked for.
_LARGEST_INSTANCE = 2**31 - 1

NOT_FINISHED = "Workflow has not finished yet"

Text = Annotated[str | None, Query()]


@router.post("/workflows", status_code=201, summary="Submit a workflow")
async def create_workflow(
    request: Request, caller: CallerDep, idempotency_key: Annotated[str | None, Header()] = None
) -> JSONResponse:
    """Validate a workflow document, expand its factories and queue its jobs; the answer is its id."""
    value = await read_json(request, settings().max_body)
    workflow_id = await run_in_threadpool(making.submit, value, caller, idempotency_key)
    return JSONResponse({"id": workflow_id}, status_code=201)


@router.get("/workflows", summary="List one's workflows")
def list_workflows(
    caller: CallerDep,
    completed: Text = None,
    num: Text = None,
    every: Annotated[str | None, Query(alias="all")] = None,
    status: Text = None,
    name: Text = None,
    detail: Text = None,
    ids: Annotated[str | None, Query(alias="id")] = None,
    constraint: Annotated[list[str] | None, Query()] = None,
) -> JSONResponse:
    """Return active workflows and finished ones still in the queue, or the last ``num`` finished ones, or ``all``."""
    constraints = constraints_of(constraint or [])
    want = workflowviews.WorkflowFilter(
        owner=caller.name,
        completed=flag(completed),
        everything=every is not None,
        num=count(num),
        status=status_of(status),
        name=None if name is None else without_nul(name, "name"),
        constraints=constraints or {},
        ids=None if ids is None else numbers(ids),
    )
    if constraints is None:
        return JSONResponse([])
    in_full = detail is not None
    return JSONResponse(read(lambda session: workflowviews.listed(session, want, in_full=in_full)))


@router.delete("/workflows", summary="Delete several workflows")
def delete_workflows(caller: CallerDep, ids: Annotated[str | None, Query(alias="id")] = None) -> JSONResponse:
    """End the given workflows; it is enough if one of them was still active."""
    if not ids:
        raise ApiError(400, "a workflow id or list of workflow ids must be provided")
    return _delete(caller, numbers(ids))


@router.get("/workflows/{workflow_id}", summary="Describe a workflow")
def describe_workflow(workflow_id: str, caller: CallerDep) -> JSONResponse:
    """Return a list of one workflow: its document, status and progress; an empty list for what isn't one's own."""

    def work(session: Session) -> list[dict[str, Any]]:
        workflow = _find(session, workflow_id, caller)
        return [] if workflow is None else [workflowviews.describe(session, workflow)]

    return JSONResponse(read(work))


@router.delete("/workflows/{workflow_id}", summary="Delete a workflow")
def delete_workflow(workflow_id: str, caller: CallerDep) -> JSONResponse:
    """End a workflow with all its jobs: their containers are killed, its status becomes ``deleted``."""
    return _delete(caller, numbers(workflow_id))


@router.put("/workflows/{workflow_id}", summary="Rerun a workflow")
def rerun_workflow(workflow_id: str, caller: CallerDep) -> JSONResponse:
    """Run what failed or was never run of a finished workflow; the answer is the id of the workflow that does."""

    def work(session: Session) -> int:
        workflow = _one(session, workflow_id, caller)
        if workflow.ended_at is None:
            raise ApiError(400, NOT_FINISHED)
        return making.rerun(session, workflow, caller)

    return JSONResponse({"id": transact(work)})


@router.patch("/workflows/{workflow_id}", include_in_schema=False)
def change_workflow() -> JSONResponse:
    """Refuse: as jobs, workflows cannot be modified after they are created."""
    error = {"error": "A workflow cannot be changed"}
    return JSONResponse(error, status_code=405, headers={"Allow": "GET, PUT, DELETE"})


@router.put("/workflows/{workflow_id}/clone", status_code=201, summary="Submit a workflow once more")
def clone_workflow(workflow_id: str, caller: CallerDep) -> JSONResponse:
    """Submit the document of a workflow again, whatever became of it, its secrets included; answers the new id."""
    document = transact(lambda session: making.original(session, _one(session, workflow_id, caller)))
    return JSONResponse({"id": making.submit(document, caller, None)}, status_code=201)


@router.put("/workflows/{workflow_id}/remove", summary="Remove a workflow from the queue")
def remove_workflow(workflow_id: str, caller: CallerDep) -> JSONResponse:
    """Let a workflow with ``leaveInQueue`` leave the list of active ones, at once or with its end."""
    caller.require_act()

    def work(session: Session) -> None:
        workflow = _one(session, workflow_id, caller)
        if not workflows.leave_queue(session, workflow.id, caller.name):
            raise ApiError(400, NOT_IN_QUEUE)

    transact(work)
    return JSONResponse({})


@router.get("/workflows/{workflow_id}/{job}/stdout", summary="Standard output of a workflow's job")
def read_stdout(workflow_id: str, job: str, caller: CallerDep, node: Text = None, offset: Text = None) -> Response:
    """Return the raw bytes that a job of the workflow has written, by its name; of a factory's first by default."""
    return _output(caller, workflow_id, job, None, "stdout", node, offset)


@router.get("/workflows/{workflow_id}/{job}/stderr", summary="Standard error of a workflow's job")
def read_stderr(workflow_id: str, job: str, caller: CallerDep, node: Text = None, offset: Text = None) -> Response:
    """Return the raw bytes that a job of the workflow has written, by its name; of a factory's first by default."""
    return _output(caller, workflow_id, job, None, "stderr", node, offset)


@router.get("/workflows/{workflow_id}/{job}/{instance}/stdout", summary="Standard output of one of a factory's jobs")
def read_stdout_of(
    workflow_id: str, job: str, instance: str, caller: CallerDep, node: Text = None, offset: Text = None
) -> Response:
    """Return the raw bytes that a factory's job has written, by the job's name and its number (from 0)."""
    return _output(caller, workflow_id, job, instance, "stdout", node, offset)


@router.get("/workflows/{workflow_id}/{job}/{instance}/stderr", summary="Standard error of one of a factory's jobs")
def read_stderr_of(
    workflow_id: str, job: str, instance: str, caller: CallerDep, node: Text = None, offset: Text = None
) -> Response:
    """Return the raw bytes that a factory's job has written, by the job's name and its number (from 0)."""
    return _output(caller, workflow_id, job, instance, "stderr", node, offset)


def _output(
    caller: Caller, workflow_id: str, job: str, instance: str | None, which: str, node: str | None, offset: str | None
) -> Response:
    name, number = job, node
    if node is not None and read(lambda session: _are_swapped(session, _one(session, workflow_id, caller), job, node)):
        name, number = node, job

    def find(session: Session) -> Job:
        found = _job_named(session, _one(session, workflow_id, caller), name, instance)
        if found is None:
            raise ApiError(400, f"{which} does not exist")
        return found

    return stream(find, which, number, offset)


def _are_swapped(session: Session, workflow: Workflow, job: str, node: str) -> bool:
    """Tell whether name and node stand in each other's place, as the released client sends those of a stderr."""
    if number_of(job) is None:
        return False
    number = number_of(node)
    if number is None:
        return True
    # Jobs may have numbers for names, too.
    if _job_named(session, workflow, node, None) is None:
        return False
    there = _job_named(session, workflow, job, None)
    return there is None or number >= there.nodes


def _job_named(session: Session, workflow: Workflow, name: str, instance: str | None) -> Job | None:
    number = None if instance is None else number_of(instance)
    if "\0" in name or (instance is not None and (number is None or number > _LARGEST_INSTANCE)):
        return None
    return workflows.job_of_member(session, workflow.id, name, number)


def _delete(caller: Caller, ids: list[int]) -> JSONResponse:
    caller.require_act()

    def end(workflow_id: int) -> bool:
        return transact(lambda session: workflows.delete_workflow(session, workflow_id, caller.name))

    if not [workflow_id for workflow_id in ids if end(workflow_id)]:
        raise ApiError(400, NO_WORKFLOWS)
    return JSONResponse({})


def _one(session: Session, workflow_id: str, caller: Caller) -> Workflow:
    workflow = _find(session, workflow_id, caller)
    if workflow is None:
        raise ApiError(400, NO_WORKFLOW)
    return workflow


def _find(session: Session, workflow_id: str, caller: Caller) -> Workflow | None:
    """Return the workflow if it is the caller's; whose else it may be makes no difference."""
    number = number_of(workflow_id)
    return None if number is None else workflows.find_workflow(session, number, caller.name)
