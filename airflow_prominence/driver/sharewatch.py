"""How far shares of factories' jobs are: one question for all that wait in a process, about once a second.

A share's jobs end one by one, so a long-poll would be answered all the time; and nobody waits for its last one more
urgently than a triggerer looks at its triggers.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Sequence
from typing import Protocol

from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.share import Share, ShareProgress

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 3.0


class AsksForShares(Protocol):
    """The call that a ShareWatch makes."""

    def progress_of_shares(self, shares: Sequence[Share]) -> Awaitable[list[ShareProgress]]: ...  # pragma: no cover


class ShareWatch:
    """Tells any number of waiting coroutines when the counts of their shares have changed.

    While nothing changes it asks more and more rarely. The asking task runs while somebody waits.
    """

    def __init__(
        self, client: AsksForShares, *, first_pause_s: float = _FIRST_PAUSE_S, longest_pause_s: float = _LONGEST_PAUSE_S
    ) -> None:
        self._client = client
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._waiters: dict[asyncio.Future[ShareProgress], tuple[Share, ShareProgress | None]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many coroutines wait."""
        return len(self._waiters)

    async def changed(self, share: Share, known: ShareProgress | None) -> ShareProgress:
        """Wait until the share's counts are other than ``known``; return them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ShareProgress] = loop.create_future()
        self._waiters[future] = (share, known)
        if self._task is None or self._task.done():
            # Its own context and the loop's own task: it must neither write into the log of the trigger that waited
            # first nor end with that one.
            self._task = contextvars.Context().run(loop.create_task, self._ask_on())
            self._task.add_done_callback(self._ended)
        try:
            return await future
        finally:
            self._waiters.pop(future, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell the waiters if the asking broke (a fault of ours): nobody may wait for ever."""
        error = None if task.cancelled() else task.exception()
        for future in self._waiters:
            if not future.done() and error is not None:
                future.set_exception(error)

    async def _ask_on(self) -> None:
        pause = self._first_pause_s
        while self._waiters:
            asked = dict(self._waiters)
            try:
                answer = await self._client.progress_of_shares([share for share, _ in asked.values()])
            except ApiRefused as refused:
                log.error("The PROMINENCE API refuses to tell how far jobs are: %s", refused)
                await asyncio.sleep(self._longest_pause_s)
                continue
            woken = False
            for (future, (_, known)), now in zip(asked.items(), answer, strict=True):
                if now != known and not future.done():
                    future.set_result(now)
                    woken = True
            pause = self._first_pause_s if woken else min(pause * 1.5, self._longest_pause_s)
            await asyncio.sleep(pause)
