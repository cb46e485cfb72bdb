"""One round of retention: what is over its time goes, in small steps, each a transaction of its own."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from airflow_prominence.api.database import transact
from airflow_prominence.api.settings import settings
from airflow_prominence.objects import ObjectStoreError, object_store
from airflow_prominence.store import retention, warnings

log = logging.getLogger(__name__)

#: A round ends after so long; what is left waits for the next one, in a minute.
ROUND_S = 20.0
_JOBS_A_ROUND = 1000
_LETTERS_A_ROUND = 100


def sweep() -> dict[str, int]:
    """Warn of and remove what is due; return how much of each."""
    delete_below = object_store().delete_below
    keep, now = settings().kept, time.time()
    deadline = time.monotonic() + ROUND_S
    warned = transact(lambda session: warnings.warn(session, keep, now, _LETTERS_A_ROUND))
    left = transact(lambda session: retention.leave_queues(session, keep, now))
    due = transact(lambda session: retention.due(session, keep, now, _JOBS_A_ROUND))

    def each(ids: Sequence[int], remove: Callable[[int, Session], bool]) -> int:
        done = 0
        for job_id in ids:
            if time.monotonic() > deadline:
                break
            try:
                done += transact(functools.partial(remove, job_id))
            except ObjectStoreError as error:
                log.warning("what is kept of job %s could not be removed: %s", job_id, error)
        return done

    return {
        "warnings_written": warned,
        "jobs_left_queue": left,
        "stdout_removed": each(due.stdout, lambda job, s: retention.remove_stdout(s, job, keep, now)),
        "outputs_removed": each(due.outputs, lambda job, s: retention.remove_outputs(s, job, keep, now, delete_below)),
        "jobs_forgotten": each(due.jobs, lambda job, s: retention.forget_job(s, job, keep, now, delete_below)),
    }
