"""Seeing to what the end of a workflow's job means for the rest of it, as soon as one has ended.

As with capacity: the end itself only asks, by a row and a NOTIFY in its own transaction; what an API server could not
do before it died, the housekeeping does.
"""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError

from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.hub import hub
from airflow_prominence.store import workflows
from airflow_prominence.store.notify import SETTLING_CHANNEL

log = logging.getLogger(__name__)


async def settle() -> None:
    """Make a pass each time one is asked for, until cancelled."""
    with hub.listening(SETTLING_CHANNEL, [0]) as asked:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await transact_async(workflows.settle)
            except (SQLAlchemyError, DatabaseGone) as error:
                log.warning("the ends of workflows have to wait for the housekeeping: %s", error)
