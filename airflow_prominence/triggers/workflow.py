"""The trigger behind the task that makes a workflow of a document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_prominence._compat import forget_dag, task_identity
from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.process import this_process
from airflow_prominence.driver.workflowview import WorkflowView

# As for phases: the triggerer may close the log before the last lines have come, and on_kill has 30 s.
_LAST_LINES_S = 1.0
_TELLING_S = 20.0

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0


class WorkflowTrigger(BaseTrigger):
    """Has the API make the run's workflow, waits for its end, and fails unless it completed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._workflow: WorkflowView | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, by which another triggerer can go on with it."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Make it or find it, watch it, end the task with an event."""
        success, result = False, dict[str, Any]()
        try:
            workflow = await self._to_the_end()
            success, message = workflow.status == "completed", workflow.sentence
            result = {"workflow": workflow.id, "status": workflow.status, "progress": workflow.progress}
        except ApiRefused as refused:
            message = refused.sentence
        except Exception as error:
            # An exception that leaves a trigger costs a worker process, whose only work is to fail the task too.
            self.log.exception("The workflow could not be driven")
            message = f"The workflow could not be driven: {type(error).__name__}: {error}"
        (self.log.info if success else self.log.error)("%s", message)
        await asyncio.sleep(_LAST_LINES_S)
        event = TaskSuccessEvent if success else TaskFailedEvent
        yield event(xcoms={"return_value": {**result, "message": message}})

    async def _to_the_end(self) -> WorkflowView:
        client = this_process().client
        whose = task_identity(self.task_instance)
        forget_dag(self.task_instance)
        workflow = self._workflow = await client.workflow_of_run(whose.dag_id, whose.run_id)
        self.log.info("Workflow %d is the run %s of the DAG %s", workflow.id, workflow.run_id, workflow.dag_id)
        told, pause = "", _FIRST_PAUSE_S
        while not workflow.ended:
            if workflow.sentence != told:
                told, pause = workflow.sentence, _FIRST_PAUSE_S
                self.log.info("%s", told)
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_PAUSE_S)
            workflow = await client.workflow_of_run(whose.dag_id, whose.run_id)
        return workflow

    async def on_kill(self) -> None:
        """Tell the API that this trigger was cancelled; only it can tell by whom, so nothing is ended here."""
        if self._workflow is None:
            return
        whose = task_identity(self.task_instance)
        telling = this_process().client.workflow_cancelled(self._workflow.id, whose.ti_id, whose.try_number)
        try:
            acted = await asyncio.wait_for(telling, _TELLING_S)
        except (ApiRefused, asyncio.TimeoutError) as failure:
            self.log.warning("The end of this task could not be told to the API: %s", failure)
            return
        self.log.info("The task was ended from outside; its workflow %s", "is deleted" if acted else "goes on")
