"""Giving out capacity as soon as some is wanted or has come back: one pass at a time, however many ask for one.

A submission or a runner's last report only asks, by NOTIFY in its own transaction; of a burst of them most find that
one pass has served them all. What an API server could not do before it died, the housekeeping does.
"""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError

from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.hub import hub
from airflow_prominence.store import capacity
from airflow_prominence.store.notify import PLACING_CHANNEL

log = logging.getLogger(__name__)


async def place() -> None:
    """Make a pass each time one is asked for, until cancelled."""
    with hub.listening(PLACING_CHANNEL, [0]) as asked:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await transact_async(capacity.place_waiting)
            except (SQLAlchemyError, DatabaseGone) as error:
                log.warning("giving out capacity has to wait for the housekeeping: %s", error)
