"""The one trigger behind all phases of a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import (
    BaseTaskEndEvent,
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from airflow_prominence._compat import TaskIdentity, forget_dag, task_identity
from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.drive import drive
from airflow_prominence.driver.jobview import JobView
from airflow_prominence.driver.process import DriverProcess, this_process
from airflow_prominence.driver.restage import restage
from airflow_prominence.driver.story import Story
from airflow_prominence.driver.verdict import Verdict, verdict

_EVENTS: dict[str, type[BaseTaskEndEvent]] = {
    "success": TaskSuccessEvent,
    "failed": TaskFailedEvent,
    "skipped": TaskSkippedEvent,
}

# The triggerer closes a trigger's log when it reads that the trigger has finished, even if lines of it are still on
# their way (another one, read once a second or so). No job waits for a trigger, so the last line is given that time.
_LAST_LINES_S = 1.0

# Airflow gives on_kill 30 s; whatever could not be told by then is found by the housekeeping.
_TELLING_S = 20.0

_OUTCOME_POLL_S = (0.5, 1.0, 2.0, 5.0)


class PhaseTrigger(BaseTrigger):
    """Drives the run's job to the end of one phase and ends the task accordingly.

    It never starts, stops or kills anything itself: what it does is ask and observe, so that a second one on the same
    job (a triggerer that was paused, and its successor) does no harm.
    """

    def __init__(self, phase: str, document: str | None = None, to_worker: bool = False) -> None:
        """Of a ``document``, JSON text, the job is made; ``to_worker``: a worker ends the task, and is told all."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = phase
        self.document = document
        self.to_worker = to_worker
        self._job: JobView | None = None
        self._outputs: list[dict[str, Any]] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, by which another triggerer can go on with it."""
        kwargs: dict[str, Any] = {"phase": self.phase}
        if self.document is not None:
            kwargs["document"] = self.document
        if self.to_worker:
            kwargs["to_worker"] = True
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Drive, then end the task with an event."""
        try:
            process = this_process()
            whose = task_identity(self.task_instance)
            forget_dag(self.task_instance)
            judged = await (self._outcome(process, whose) if self.phase == "outcome" else self._drive(process, whose))
        except Exception as error:
            # An exception that leaves a trigger costs a worker process, whose only work is to fail the task too.
            self.log.exception("The phase %s could not be driven", self.phase)
            judged = Verdict("failed", f"The phase {self.phase} could not be driven: {type(error).__name__}: {error}")
        (self.log.error if judged.end == "failed" else self.log.info)("%s", judged.sentence)
        await asyncio.sleep(_LAST_LINES_S)
        result = self._result(judged)
        yield TriggerEvent(result) if self.to_worker else _EVENTS[judged.end](xcoms={"return_value": result})

    async def _drive(self, process: DriverProcess, whose: TaskIdentity) -> Verdict:
        try:
            job = await self._begun(process, whose)
            self._job = job
            if self.phase == "stage_out" and job.ended and job.stage_out_ti not in ("", whose.ti_id):
                again = await restage(process.client, process.watch, job, whose.ti_id, self._write)
                if again is not None:
                    return again
                job = await process.client.job(job.id)
            story = Story(self.phase, self._write)
            job = self._job = await drive(process.client, process.watch, job, self.phase, story.tell, whose.ti_id)
            if self.to_worker and job.ended:
                self._outputs = await process.client.outputs(job.id)
        except ApiRefused as refused:
            return self._without_job(refused.sentence)
        return verdict(job, self.phase)

    async def _begun(self, process: DriverProcess, whose: TaskIdentity) -> JobView:
        group = self._group(whose.task_id)
        if self.document is None:
            return await process.client.job_of_run(whose.dag_id, whose.run_id, group, whose.map_index)
        document = json.loads(self.document)
        return await process.client.job_of_task(
            whose.dag_id,
            whose.run_id,
            group,
            whose.map_index,
            whose.task_id,
            document,
            holds=self.phase != "job",
        )

    def _write(self, line: str) -> None:
        self.log.info("%s", line)

    def _group(self, task_id: str) -> str:
        return task_id if self.phase == "job" else task_id.rpartition(".")[0]

    def _without_job(self, sentence: str) -> Verdict:
        """The run has no job (its document was refused): phases that come after a failure have nothing to do."""
        if self._job is None and self.phase == "stage_out":
            return Verdict("skipped", f"Nothing to take away: {sentence}")
        if self._job is None and self.phase == "release":
            return Verdict("success", f"Nothing to give back: {sentence}")
        return Verdict("failed", sentence)

    async def _outcome(self, process: DriverProcess, whose: TaskIdentity) -> Verdict:
        asked = 0
        while True:
            try:
                outcome = await process.client.outcome(whose.dag_id, whose.run_id)
            except ApiRefused as refused:
                return Verdict("failed", refused.sentence)
            if not outcome.pending:
                break
            if asked == 0:
                self.log.info("Waiting for the end of the run's job")
            await asyncio.sleep(_OUTCOME_POLL_S[min(asked, len(_OUTCOME_POLL_S) - 1)])
            asked += 1
        if outcome.success:
            return Verdict("success", outcome.reason or "The run's job ended well.")
        return Verdict("failed", outcome.reason or "The run's job did not end well.")

    def _result(self, judged: Verdict) -> dict[str, Any]:
        result: dict[str, Any] = {"phase": self.phase, "message": judged.sentence}
        if self.to_worker:
            result |= {"end": judged.end, "outputs": self._outputs}
        job = self._job
        if job is not None:
            result |= {
                "job": job.id,
                "name": job.name,
                "status": job.status,
                "attempt": job.attempt,
                "site": job.site,
                "nodes": list(job.nodes),
                "node_success": job.node_success,
                "exit_codes": list(job.exit_codes),
            }
        return result

    async def on_kill(self) -> None:
        """Tell the API that this trigger was cancelled.

        That may be a user's act, but it also happens when a triggerer wakes from a pause and finds its triggers taken
        over. Only the API can tell which, by the task instance's row; so nothing is ended here.
        """
        job = self._job
        if job is None:
            return
        whose = task_identity(self.task_instance)
        telling = this_process().client.task_cancelled(
            job.id,
            whose.ti_id,
            whose.try_number,
            dag_id=whose.dag_id,
            run_id=whose.run_id,
            task_id=whose.task_id,
            map_index=whose.map_index,
        )
        try:
            acted = await asyncio.wait_for(telling, _TELLING_S)
        except (ApiRefused, asyncio.TimeoutError) as failure:
            self.log.warning("The end of this task could not be told to the API: %s", failure)
            return
        self.log.info("The task was ended from outside; %s %s", job.title, "is ended too" if acted else "goes on")
