"""The trigger behind a share of a factory's jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_prominence._compat import forget_dag, task_identity
from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.process import this_process
from airflow_prominence.driver.share import Share, ShareProgress

# As for phases: the triggerer may close the log before the last lines have come, and on_kill has 30 s.
_LAST_LINES_S = 1.0
_TELLING_S = 20.0

# A line of progress is worth a look now and then, not for every job.
_LINES_APART_S = 10.0


class ArrayTrigger(BaseTrigger):
    """Lets its share of a factory's jobs begin, waits for them all, and fails unless all ended well.

    Like a phase's trigger it only asks and observes, so a second one on the same share does no harm.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._share: Share | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, by which another triggerer can go on with it."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Drive, then end the task with an event."""
        result: dict[str, Any]
        try:
            failed, result = await self._drive()
        except ApiRefused as refused:
            failed, result = True, {"message": refused.sentence}
        except Exception as error:
            # An exception that leaves a trigger costs a worker process, whose only work is to fail the task too.
            self.log.exception("The jobs could not be driven")
            failed, result = True, {"message": f"The jobs could not be driven: {type(error).__name__}: {error}"}
        (self.log.error if failed else self.log.info)("%s", result["message"])
        await asyncio.sleep(_LAST_LINES_S)
        yield (TaskFailedEvent if failed else TaskSuccessEvent)(xcoms={"return_value": result})

    async def _drive(self) -> tuple[bool, dict[str, Any]]:
        process = this_process()
        whose = task_identity(self.task_instance)
        forget_dag(self.task_instance)
        share = await process.client.begin_share(whose.dag_id, whose.run_id, whose.task_id, whose.map_index)
        self._share = share
        progress = await self._to_the_end(share)
        result = {"jobs": progress.total, "done": progress.done - progress.failed, "failed": progress.failed}
        if not progress.failed:
            jobs = "The job" if progress.total == 1 else f"All {progress.total} jobs"
            return False, result | {"message": f"{jobs} ended well."}
        failures = await process.client.failures_of_share(share)
        for job in failures:
            self.log.error("%s", job.sentence)
        if len(failures) < progress.failed:
            self.log.error("… and %d more", progress.failed - len(failures))
        jobs = "job" if progress.total == 1 else "jobs"
        return True, result | {"message": f"{progress.failed} of {progress.total} {jobs} did not end well."}

    async def _to_the_end(self, share: Share) -> ShareProgress:
        loop = asyncio.get_running_loop()
        watch = this_process().shares
        progress, last_line = await watch.changed(share, None), float("-inf")
        self.log.info("Share %d of %d of the jobs of %s", share.map_index + 1, share.chunks, share.task_id)
        while not progress.over:
            if loop.time() - last_line >= _LINES_APART_S:
                self.log.info("%s", progress.sentence)
                last_line = loop.time()
            progress = await watch.changed(share, progress)
        self.log.info("%s", progress.sentence)
        return progress

    async def on_kill(self) -> None:
        """Tell the API that this trigger was cancelled; only it can tell by whom, so nothing is ended here."""
        share = self._share
        if share is None:
            return
        whose = task_identity(self.task_instance)
        telling = this_process().client.share_cancelled(share, whose.ti_id, whose.try_number)
        try:
            acted = await asyncio.wait_for(telling, _TELLING_S)
        except (ApiRefused, asyncio.TimeoutError) as failure:
            self.log.warning("The end of this task could not be told to the API: %s", failure)
            return
        self.log.info("The task was ended from outside; its jobs %s", "are ended too" if acted else "go on")
