"""Orders to running jobs as their requests see them: given to a node, followed while they go on, and left.

Orders of all kinds as their node sees them.

No thread and no database session is held while a request waits.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import Request
from sqlalchemy.orm import Session

from airflow_prominence.api.database import DatabaseGone, transact, transact_async
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.hub import hub
from airflow_prominence.api.settings import settings
from airflow_prominence.objects import StoreUnavailable, object_store, scratch_folder, snapshot_key
from airflow_prominence.store import commands
from airflow_prominence.store.commands import Look, Order
from airflow_prominence.store.notify import ORDER_CHANNEL

log = logging.getLogger(__name__)

RESTARTING = "The server is being restarted, please try again"
NO_STORAGE = "The object storage does not answer at the moment, please try again"
TOO_MANY = f"{commands.AT_A_TIME} commands and snapshots of this job are under way already"

#: How often to look for what nothing wakes for: a client that has hung up, a node that is lost (s).
_TURN_S = 1.0
_MOST = 1 << 20
#: A node may send a snapshot until so long after its time (s).
_UPLOAD_LATE_S = 60.0


class Following:
    """One open order. Who has given it reads it to its end, or leaves before, which stops it."""

    def __init__(self, job_id: int, command_id: str) -> None:
        self.held: list[bytes] = []
        self.end: Look | None = None
        self._job_id = job_id
        self._id = command_id
        self._position = 0

    @classmethod
    async def give(cls, job_id: int, order: Order) -> Following:
        """Give an order to a job's node; refuse with the contract's sentence where that can't be."""
        command_id = uuid.uuid4().hex
        try:
            await transact_async(lambda session: commands.give(session, job_id, command_id, order))
        except commands.NotRunning:
            raise ApiError(400, commands.NOT_RUNNING) from None
        except commands.TooMany:
            raise ApiError(429, TOO_MANY) from None
        return cls(job_id, command_id)

    async def hold(self, request: Request, quiet_s: float, written_s: float, most: int) -> None:
        """Gather what is written, without an answer yet.

        Returns at the end, which is in ``end`` then, or ``written_s`` seconds after the first output, when there are
        ``most`` bytes of it, or after ``quiet_s`` seconds. Leaves, and raises, when the client has hung up.
        """
        began, written = time.monotonic(), None
        # Not `is_disconnected`, which hears of nothing through Airflow's middlewares.
        hung_up = asyncio.ensure_future(_disconnect(request))
        try:
            async with aclosing(self.pieces()) as pieces:
                async for data in pieces:
                    now = time.monotonic()
                    if data:
                        self.held.append(data)
                        written = written or now
                    if now - began >= quiet_s or (written is not None and now - written >= written_s):
                        return
                    if sum(map(len, self.held)) >= most:
                        return
                    if hub.stopping:
                        raise ApiError(503, RESTARTING)
                    if hung_up.done():
                        raise ApiError(400, commands.NOBODY_WAITS)
        except BaseException:
            await self.leave()
            raise
        finally:
            hung_up.cancel()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What is written from now on; an empty piece about every second without. After the last one ``end`` is set."""
        with hub.listening(ORDER_CHANNEL, [self._job_id]) as heard:
            while True:
                heard.clear()
                look = await self._look()
                if look.over:
                    self.end = look
                    return
                self._position += len(look.data)
                yield look.data
                if not look.data:
                    try:
                        await asyncio.wait_for(heard.wait(), _TURN_S)
                    except asyncio.TimeoutError:
                        continue

    async def _look(self) -> Look:
        return await transact_async(lambda session: commands.look(session, self._id, self._position, _MOST))

    async def leave(self) -> None:
        """Say that nobody waits any more; to be called in any case, also by a task that is being cancelled."""
        with anyio.CancelScope(shield=True):
            try:
                await transact_async(lambda session: commands.leave(session, self._id))
            except DatabaseGone as gone:
                log.info("an order was left by its time: %s", gone)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def orders_to_node(node_id: int, given: Iterable[commands.Given]) -> list[dict[str, Any]]:
    """Return orders as their node gets them; one that needs an object storage which is away ends instead."""
    bodies = []
    for one in given:
        try:
            bodies.append(_body(one))
        except StoreUnavailable as error:
            log.warning("a snapshot cannot be made: %s", error)
            transact(functools.partial(_give_up, node_id, one.id))
    return bodies


def _give_up(node_id: int, command_id: str, session: Session) -> None:
    commands.end(session, command_id, node_id, None, NO_STORAGE)


def _body(given: commands.Given) -> dict[str, Any]:
    order = given.order
    body = {
        "id": given.id,
        "lease": given.lease,
        "kind": order.kind,
        "timeout_s": order.timeout_s,
        "limit": order.limit,
        **order.what,
    }
    if order.kind == commands.STAGE_OUT:
        del body["ti"]
        body["outputs_folder"] = scratch_folder(given.job_uid)
        body["output_url"] = f"{settings().internal_url}/commands/{given.id}/place"
    if order.kind == commands.SNAPSHOT:
        key = snapshot_key(given.job_uid)
        body["url"] = object_store().url_to_put(key, order.timeout_s + _UPLOAD_LATE_S, to_node=True).url
    return body
