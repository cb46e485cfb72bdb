"""The trigger behind the housekeeping task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_prominence.driver.client import ApiRefused
from airflow_prominence.driver.process import this_process


class MaintenanceTrigger(BaseTrigger):
    """Asks the API once to keep house; the work is the API's."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, by which another triggerer can go on with it."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask, log what was done, end."""
        try:
            counts = await this_process().client.maintenance()
        except ApiRefused as refused:
            self.log.error("The API refused to keep house: %s", refused.sentence)
            yield TaskFailedEvent(xcoms={"return_value": {"error": refused.sentence}})
            return
        done = {what: count for what, count in counts.items() if count}
        self.log.info("Done: %s", ", ".join(f"{what} {count}" for what, count in done.items()) or "nothing to do")
        yield TaskSuccessEvent(xcoms={"return_value": dict(counts)})
