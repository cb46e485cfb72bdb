"""One round of retention: what is over its time goes, in small steps, each a transaction of its own."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy.orm import Session

from airflow_prominence.api.database import transact
from airflow_prominence.api.settings import settings
from airflow_prominence.api.uploads import keys_of_names
from airflow_prominence.dags.submit import forget_workflow_dag
from airflow_prominence.objects import ObjectStoreError, object_store
from airflow_prominence.store import retention, uploadretention, warnings
from airflow_prominence.store.retention import Retention
from airflow_prominence.store.uploads import note_used
from airflow_prominence.store.workflows import first_of_dag

log = logging.getLogger(__name__)

Thing = TypeVar("Thing", int, str)

#: A round ends after so long; what is left waits for the next one, in a minute.
ROUND_S = 20.0
_JOBS_A_ROUND = 1000
_UPLOADS_A_ROUND = 1000
_LETTERS_A_ROUND = 100


def sweep() -> dict[str, int]:
    """Warn of and remove what is due; return how much of each."""
    store = object_store()
    delete_below = store.delete_below
    keep, now = settings().kept, time.time()
    deadline = time.monotonic() + ROUND_S
    warned = transact(lambda session: warnings.warn(session, keep, now, _LETTERS_A_ROUND))
    warned += transact(lambda session: uploadretention.warn(session, keep, now, _LETTERS_A_ROUND))
    left = transact(lambda session: retention.leave_queues(session, keep, now))
    due = transact(lambda session: retention.due(session, keep, now, _JOBS_A_ROUND))
    unused = transact(lambda session: _unused_uploads(session, keep, now))

    def each(things: Sequence[Thing], remove: Callable[[Thing, Session], bool]) -> int:
        done = 0
        for thing in things:
            if time.monotonic() > deadline:
                break
            try:
                done += transact(functools.partial(remove, thing))
            except ObjectStoreError as error:
                what = f"what is kept of job {thing}" if isinstance(thing, int) else f"the object {thing}"
                log.warning("%s could not be removed: %s", what, error)
        return done

    return {
        "warnings_written": warned,
        "jobs_left_queue": left,
        "stdout_removed": each(due.stdout, lambda job, s: retention.remove_stdout(s, job, keep, now)),
        "outputs_removed": each(due.outputs, lambda job, s: retention.remove_outputs(s, job, keep, now, delete_below)),
        "jobs_forgotten": each(due.jobs, lambda job, s: retention.forget_job(s, job, keep, now, delete_below)),
        "workflows_forgotten": each(due.workflows, _forget_workflow),
        "uploads_removed": each(unused, lambda key, s: uploadretention.remove(s, key, keep, now, store.delete)),
    }


def _forget_workflow(workflow_id: int, session: Session) -> bool:
    """Remove a workflow, and its DAG with it if no other workflow was made of that."""
    gone = retention.forget_workflow(session, workflow_id)
    if gone is None:
        return False
    dag_id, _ = gone
    if first_of_dag(session, dag_id) is None:
        forget_workflow_dag(session, dag_id)
    return True


def _unused_uploads(session: Session, keep: Retention, now: float) -> list[str]:
    """Return the uploads that are over their time; one that an active job still needs counts as used now."""
    due = uploadretention.due(session, keep, now, _UPLOADS_A_ROUND)
    if not due:
        return []
    needed = {
        key
        for job in uploadretention.needed_by_active_jobs(session)
        for key in keys_of_names(job.names, job.owner, job.groups)
    }
    note_used(session, sorted(needed.intersection(due)), now)
    return [key for key in due if key not in needed]
