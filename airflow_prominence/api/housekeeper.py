"""The API's own clock: every few seconds one of the API servers looks after what nobody asks for."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from airflow_prominence import _compat
from airflow_prominence.api import runs
from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.settings import settings
from airflow_prominence.dags import submit as dags
from airflow_prominence.dags.names import API_BUNDLE
from airflow_prominence.store import housekeeping, workflows

log = logging.getLogger(__name__)

ROUND_S = 3.0


async def keep() -> None:
    """Do rounds until cancelled; a database that is away is only waited for."""
    dags_written = False
    while True:
        try:
            if not dags_written:
                await transact_async(_write_dags)
                dags_written = True
            done = await transact_async(_round)
            if done is not None and (done.lost_nodes or done.overdue_jobs):
                log.info("nodes lost: %s; jobs too long in the queue: %s", done.lost_nodes, done.overdue_jobs)
        except (SQLAlchemyError, DatabaseGone) as error:
            log.warning("housekeeping has to wait: %s", error)
        await asyncio.sleep(ROUND_S)


def _write_dags(session: Session) -> None:
    """Once a process: after an upgrade the shipped DAGs are other ones than those in the database."""
    dags.keep_shipped_dags(session, anew=True)


def _round(session: Session) -> housekeeping.Done | None:
    done = housekeeping.round_of(session, settings().evict_after_s, settings().outage_grace_s)
    if done is not None:
        workflows.settle(session)
        dags.keep_shipped_dags(session)
    return done


def maintain(session: Session) -> dict[str, int]:
    """Do what the maintenance DAG asks for each minute: a round, and what needs Airflow's own tables.

    Returns how many of each kind of thing were done, which is what the trigger that asks logs.
    """
    done = _round(session) or housekeeping.Done()
    ended = runs.end_jobs_without_run(session)
    housekeeping.forget_old(session)
    dags.renew_dags(session)
    callbacks = _compat.delete_callbacks(session, API_BUNDLE)
    return {
        "lost_nodes": len(done.lost_nodes),
        "overdue_jobs": len(done.overdue_jobs),
        "placed_jobs": len(done.placed_jobs),
        "ended_jobs": len(ended),
        "callbacks_deleted": callbacks,
    }
