"""Internal routes of nodes and runners: the agent protocol. Agents always come to us; nothing reaches into a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from airflow_prominence.api import live, staging
from airflow_prominence.api.assignment import assignment
from airflow_prominence.api.auth import NodeDep, Service, the_runner
from airflow_prominence.api.body import read_body, read_object
from airflow_prominence.api.database import transact, transact_async
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.hub import hub
from airflow_prominence.api.settings import settings
from airflow_prominence.store import commands, nodes, reports, restaging
from airflow_prominence.store.notify import NODE_CHANNEL
from airflow_prominence.store.tables import Lease, Node

router = APIRouter(tags=["nodes"])

POLL_S = 20
#: A deleted job is gone within 5 s, of which the way to the node and the killing take a second or two.
_STOP_GRACE_S = 2
_REPORTS_LIMIT = 16 * 1024 * 1024
_NO_COMMAND = "There is no such command for this node"


@router.post("/nodes", summary="Register a node")
async def register(request: Request, service: NodeDep) -> dict[str, Any]:
    """Make the node known, or known again after a restart of its service."""
    body = await read_object(request)
    try:
        offer = nodes.NodeOffer(
            name=str(body["name"]),
            site=str(body["site"]),
            kind=str(body.get("kind", "local")),
            boot=str(body["boot"]),
            cpus=int(body["cpus"]),
            memory_mb=int(body["memory_mb"]),
            disk_mb=int(body["disk_mb"]),
            runtimes=_mapping(body.get("runtimes")),
            runtime_info=_mapping(body.get("runtime_info")),
            agent_version=str(body.get("agent_version", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError(400, f"nodes: {error} is missing or not valid") from None
    if service.claims.get("sub") != offer.name or service.claims.get("site") != offer.site:
        raise ApiError(403, "This token is for another node")
    node_id = await transact_async(lambda session: nodes.register(session, offer).id)
    return {"node": node_id, "poll_s": POLL_S, "heartbeat_s": POLL_S // 2}


@router.post("/nodes/{node}/poll", summary="What a node shall do")
async def poll(node: int, request: Request, service: NodeDep) -> dict[str, Any]:
    """Answer as soon as there is something to start, stop, forget or carry out; each poll is a sign of life."""
    body = await read_object(request)
    boot = str(body.get("boot", ""))
    held = {str(lease): str(state) for lease, state in _mapping(body.get("leases")).items()}
    timeout = min(float(body.get("timeout", POLL_S)), float(POLL_S))
    orders = frozenset(map(str, body["commands"])) if isinstance(body.get("commands"), list) else None
    await _signed_in(node, boot, service)
    answer = await hub.wait_for(
        NODE_CHANNEL,
        [node],
        lambda: transact_async(lambda session: nodes.answer_poll(session, node, held, orders)),
        timeout,
    )
    start: list[dict[str, Any]] = []
    if answer.start:
        start = await transact_async(
            lambda session: [assignment(session, session.get_one(Lease, lease)) for lease in answer.start]
        )
    # A long-poll's end is a sign of life too: without it a node would look older than it is by one poll.
    await _signed_in(node, boot, service)
    return {
        "start": start,
        "stop": [{"lease": lease, "why": why, "grace_s": _STOP_GRACE_S} for lease, why in answer.stop],
        "forget": list(answer.forget),
        "commands": await run_in_threadpool(live.orders_to_node, node, answer.orders),
    }


@router.post("/nodes/{node}/lost", summary="A lease of which nothing lives")
async def lost(node: int, request: Request, service: NodeDep) -> dict[str, Any]:
    """End the attempt whose runner and guard are dead on the node."""
    body = await read_object(request)
    await _signed_in(node, str(body.get("boot", "")), service)
    lease, reason = str(body.get("lease", "")), str(body.get("reason") or "The runner was lost")
    await transact_async(lambda session: nodes.lease_lost(session, node, lease, reason))
    return {}


@router.post("/leases/{lease}/reports", dependencies=[Depends(the_runner)], summary="What a runner reports")
async def report(lease: str, request: Request) -> dict[str, Any]:
    """Take a runner's reports, each once and in order."""
    body = await read_object(request, _REPORTS_LIMIT)
    given = body.get("reports")
    if not isinstance(given, list) or not all(_is_report(item) for item in given):
        raise ApiError(400, "reports: must be a list of {seq, time, kind, data}")
    try:
        return await transact_async(lambda session: reports.apply_reports(session, lease, given))
    except reports.BadReport as bad:
        raise ApiError(400, str(bad)) from None
    except reports.StaleReport as stale:
        raise ApiError(409, str(stale)) from None


@router.put(
    "/leases/{lease}/streams/{stream}", dependencies=[Depends(the_runner)], summary="A piece of a task's output"
)
async def stream_piece(
    lease: str, stream: str, request: Request, offset: Annotated[int, Query(ge=0)]
) -> dict[str, Any]:
    """Store the piece if it is the one wanted next; the answer says which that is now."""
    if stream not in reports.STREAMS:
        raise ApiError(400, "stream: must be stdout or stderr")
    data = await read_body(request, reports.CHUNK)
    limit = settings().stdout_limit

    def work() -> dict[str, Any]:
        return transact(lambda session: reports.append_output(session, lease, stream, offset, data, limit))

    try:
        return await run_in_threadpool(work)
    except reports.StaleReport as stale:
        raise ApiError(409, str(stale)) from None


@router.put("/commands/{command}/output", summary="A piece of what a command writes")
async def command_output(
    command: str, request: Request, service: NodeDep, offset: Annotated[int, Query(ge=0)]
) -> dict[str, Any]:
    """Keep the piece if it is the one wanted next; an empty one is a sign of life. ``stop`` says why to end it."""
    data = await read_body(request, commands.PIECE)

    def work(session: Session) -> tuple[int, str | None]:
        take = restaging.append if restaging.is_restaging(session, command) else commands.append
        return take(session, command, _id_of(session, service), offset, data)

    try:
        wanted, stop = await transact_async(work)
    except commands.NoSuchCommand:
        raise ApiError(404, _NO_COMMAND) from None
    except reports.BadReport as bad:
        raise ApiError(400, str(bad)) from None
    return {"offset": wanted, "stop": stop}


@router.post("/commands/{command}/place", status_code=201, summary="Where an output that is stored again goes to")
async def output_place(command: str, request: Request, service: NodeDep) -> dict[str, Any]:
    """Return a new URL for an output of the job whose outputs this node is to store again."""
    name = (await read_object(request)).get("name")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "name: must be the name of an object")

    def work(session: Session) -> str:
        return restaging.uid_for_place(session, command, _id_of(session, service))

    try:
        uid = await transact_async(work)
    except commands.NoSuchCommand:
        raise ApiError(404, _NO_COMMAND) from None
    return {"url": (await run_in_threadpool(staging.place_of_output, uid, name)).url}


@router.post("/commands/{command}/end", summary="How a command ended")
async def command_end(command: str, request: Request, service: NodeDep) -> dict[str, Any]:
    """Keep its exit code, or why it has none; the first end counts."""
    body = await read_object(request, _REPORTS_LIMIT)
    code, error = body.get("exit_code"), body.get("error")
    if not isinstance(code, int | None) or isinstance(code, bool) or not isinstance(error, str | None):
        raise ApiError(400, "exit_code: must be a number or null, and error a text or null")
    if (code is None) == (error is None):
        raise ApiError(400, "exit_code: must be there or error, and not both")

    def work(session: Session) -> None:
        close = restaging.end if restaging.is_restaging(session, command) else commands.end
        close(session, command, _id_of(session, service), code, error)

    try:
        await transact_async(work)
    except commands.NoSuchCommand:
        raise ApiError(404, _NO_COMMAND) from None
    return {}


def _id_of(session: Session, service: Service) -> int:
    node = nodes.id_of(session, str(service.claims.get("site")), str(service.claims.get("sub")))
    if node is None:
        raise commands.NoSuchCommand
    return node


async def _signed_in(node: int, boot: str, service: Service) -> None:
    def work(session: Session) -> None:
        row = session.get(Node, node)
        if row is not None and (row.name != service.claims.get("sub") or row.site != service.claims.get("site")):
            raise ApiError(403, "This token is for another node")
        nodes.seen(session, node, boot)

    try:
        await transact_async(work)
    except nodes.UnknownBoot as unknown:
        raise ApiError(409, str(unknown)) from None


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("an object")
    return value


def _is_report(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("seq"), int)
        and isinstance(item.get("time"), (int, float))
        and isinstance(item.get("kind"), str)
        and isinstance(item.get("data"), dict)
    )
