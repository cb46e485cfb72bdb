"""One long-poll for all triggers of a process: ten thousand waiting jobs are one HTTP request."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Mapping
from typing import Protocol

from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.jobview import JobView

log = logging.getLogger(__name__)

_POLL_S = 25.0
_SETTLE_S = 0.02
# The longer the list, the longer we wait for more before sending it: a burst must not resend it for each newcomer.
_SETTLE_PER_WAITER_S = 0.001
_LONGEST_SETTLE_S = 0.25
_PAUSE_AFTER_REFUSAL_S = 5.0


class Watches(Protocol):
    """The call that a JobWatch makes."""

    def watch(
        self, holder: str, versions: Mapping[int, int], timeout_s: float
    ) -> Awaitable[list[JobView]]: ...  # pragma: no cover


class _Waiter:
    __slots__ = ("future", "job_id", "version")

    def __init__(self, job_id: int, version: int, future: asyncio.Future[JobView]) -> None:
        self.job_id = job_id
        self.version = version
        self.future = future


class JobWatch:
    """Tells any number of waiting coroutines when their jobs have changed, by one open request.

    A wait is for another version than the one its caller has seen, so whatever happens before the request is out is
    not lost: the API answers at once. The polling task runs while somebody waits and ends with the last one.
    """

    def __init__(self, client: Watches, holder: str, *, poll_s: float = _POLL_S, settle_s: float = _SETTLE_S) -> None:
        self.holder = holder
        self._client = client
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._waiters: set[_Waiter] = set()
        self._sent: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many coroutines wait."""
        return len(self._waiters)

    @property
    def polling(self) -> bool:
        """Whether the polling task runs."""
        return self._task is not None and not self._task.done()

    async def changed(self, job_id: int, version: int) -> JobView:
        """Wait until the job has another version than ``version``; return it."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(job_id, version, loop.create_future())
        self._waiters.add(waiter)
        if self._sent.get(job_id) != version:
            self._changed.set()
        self._keep_polling(loop)
        try:
            return await waiter.future
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._changed.set()

    def _keep_polling(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.polling:
            return
        # Its own context: the task must not write into the log of the trigger that happened to wait first. Made by
        # the loop, not awaited by the trigger: it must outlive that trigger's cancellation.
        self._task = contextvars.Context().run(loop.create_task, self._poll())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell the waiters if the polling broke (a fault of ours): nobody may wait for ever."""
        error = None if task.cancelled() else task.exception()
        for waiter in self._waiters:
            if not waiter.future.done() and error is not None:
                waiter.future.set_exception(error)

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(self._settle())
            versions = self._versions()
            if not versions:
                return
            self._sent = versions
            self._changed.clear()
            answer = await self._ask(versions)
            self._sent = {}
            if answer is not None:
                self._wake(answer)

    async def _ask(self, versions: Mapping[int, int]) -> list[JobView] | None:
        """Send one request; None if the set of waiters changed first (the request is then dropped) or it failed."""
        request = asyncio.ensure_future(self._client.watch(self.holder, versions, self._poll_s))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({request, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                return None
            return request.result()
        except ApiRefused as refused:
            log.error("The PROMINENCE API refuses to watch jobs: %s", refused)
            await asyncio.sleep(_PAUSE_AFTER_REFUSAL_S)
            return None
        finally:
            for pending in (request, changed):
                pending.cancel()
            await asyncio.gather(request, changed, return_exceptions=True)

    def _settle(self) -> float:
        return min(self._settle_s + _SETTLE_PER_WAITER_S * len(self._waiters), max(self._settle_s, _LONGEST_SETTLE_S))

    def _versions(self) -> dict[int, int]:
        """The oldest version that anybody has seen of each job: an answer then serves all who wait for that job."""
        versions: dict[int, int] = {}
        for waiter in self._waiters:
            if waiter.future.done():
                continue
            versions[waiter.job_id] = min(waiter.version, versions.get(waiter.job_id, waiter.version))
        return versions

    def _wake(self, jobs: list[JobView]) -> None:
        current = {job.id: job for job in jobs}
        for waiter in self._waiters:
            job = current.get(waiter.job_id)
            if job is not None and job.version != waiter.version and not waiter.future.done():
                waiter.future.set_result(job)
