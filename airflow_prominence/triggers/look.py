"""The trigger behind the sensors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_prominence._compat import TaskIdentity, task_identity
from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.jobview import JobView
from airflow_prominence.driver.process import DriverProcess, this_process
from airflow_prominence.driver.verdict import verdict

# A workflow ends when its last job does: nobody waits for that more urgently than this (seconds).
_PAUSES_S = (1.0, 2.0, 5.0)


class LookTrigger(BaseTrigger):
    """Waits for the end of a job or of a workflow that somebody else drives; it changes nothing."""

    def __init__(self, job: int | None = None, workflow: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job = job
        self.workflow = workflow

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, by which another triggerer can go on with it."""
        kwargs = {"job": self.job} if self.job is not None else {"workflow": self.workflow}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then tell the worker how it ended, or why there is nothing to wait for."""
        process, whose = this_process(), task_identity(self.task_instance)
        try:
            if self.job is not None:
                yield TriggerEvent(await self._job_ended(process, whose, self.job))
            else:
                yield TriggerEvent(await self._workflow_ended(process, whose))
        except ApiRefused as refused:
            yield TriggerEvent({"refused": refused.sentence})

    async def _job_ended(self, process: DriverProcess, whose: TaskIdentity, job_id: int) -> dict[str, Any]:
        found = await process.client.look_for(whose.dag_id, whose.run_id, whose.task_id, job_id, None)
        job = JobView.from_json(found["job"])
        while not job.ended:
            self.log.info("%s is %s", job.title, job.status)
            job = await process.watch.changed(job.id, job.version)
        return {
            "job": job.id,
            "status": job.status,
            "reason": job.reason,
            "exit_codes": list(job.exit_codes),
            "success": bool(job.node_success),
            "message": verdict(job, "job").sentence,
        }

    async def _workflow_ended(self, process: DriverProcess, whose: TaskIdentity) -> dict[str, Any]:
        asked, told = 0, ""
        while True:
            answer = await process.client.look_for(whose.dag_id, whose.run_id, whose.task_id, None, self.workflow)
            workflow: Mapping[str, Any] = answer["workflow"]
            if workflow["ended"]:
                break
            progress = workflow["progress"]
            sentence = f"{progress['done'] + progress['failed']} of {progress['total']} jobs are over"
            if sentence != told:
                told, asked = sentence, 0
                self.log.info("%s", sentence)
            await asyncio.sleep(_PAUSES_S[min(asked, len(_PAUSES_S) - 1)])
            asked += 1
        why = f": {workflow['reason']}" if workflow["reason"] else ""
        return {
            "workflow": self.workflow,
            "status": workflow["status"],
            "reason": workflow["reason"],
            "progress": dict(workflow["progress"]),
            "success": workflow["status"] == "completed",
            "message": f"Workflow {self.workflow} is {workflow['status']}{why}.",
        }
