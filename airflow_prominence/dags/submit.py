"""Submission of a job's run into Airflow, in the caller's transaction, and the questions the API asks about runs."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from airflow_prominence import _compat
from airflow_prominence._compat import RunFacts, TaskInstanceFacts
from airflow_prominence.dags.names import (
    API_BUNDLE,
    BEGIN,
    JOB_DAG_ID,
    MAINTENANCE_DAG_ID,
    OUTCOME,
    PHASE_TASKS,
    RELEASE,
    RUN,
    SHIPPED_DAGS,
    STAGE_OUT,
    WORKFLOW_DAG_ID,
    in_group,
    run_id_for,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from airflow_prominence.dags.plan import Plan

log = logging.getLogger(__name__)

# Far less than anybody keeps runs, and not a write for each workflow a minute.
_RENEWED_AFTER = dt.timedelta(hours=1)

__all__ = [
    "DagMissing",
    "embedded_document",
    "find_task_instance",
    "forget_workflow_dag",
    "keep_shipped_dags",
    "phase_task_states",
    "renew_dags",
    "run_facts",
    "run_id_for",
    "run_state",
    "run_task",
    "share_task",
    "stage_out_task",
    "submit_run",
    "tasks_by_group",
    "tasks_not_well",
    "write_workflow_dag",
]


class DagMissing(Exception):
    """The DAG is not in Airflow's database and is none that we can write there ourselves."""


def submit_run(session: Session, *, dag_id: str, run_id: str, conf: dict[str, Any], owner: str) -> None:
    """Create a queued run of a DAG for ``owner``. Nothing is committed: that is the caller's business.

    If the shipped DAG is not in the database yet, or has gone stale there (the scheduler would never look at it), it is
    written from the package in the same transaction: a submission never waits for the DAG processor.
    """
    state = _compat.dag_state(session, dag_id)
    if state is None or state.is_stale:
        state = _write_missing_dag(session, dag_id)
    dag = _compat.runnable_dag(session, state)
    if dag is None:
        raise DagMissing(f"DAG {dag_id} has no serialized form in Airflow's database")
    _compat.create_dag_run(session, dag, run_id=run_id, conf=conf, user=owner)


def keep_shipped_dags(session: Session, *, anew: bool = False) -> None:
    """Write the shipped DAGs that are not active in the database; ``anew``: also those that we wrote, as they are now.

    A DAG whose file lies in the DAGs folder is the DAG processor's: it stays as that wrote it. Ours are parsed by
    nobody, which spares a parse for the end of every single task.
    """
    for dag_id in SHIPPED_DAGS:
        state = _compat.dag_state(session, dag_id)
        if state is None or state.is_stale or (anew and state.bundle == API_BUNDLE):
            _write_shipped_dag(session, dag_id)


def _write_missing_dag(session: Session, dag_id: str) -> _compat.DagState:
    if dag_id not in SHIPPED_DAGS:
        raise DagMissing(f"DAG {dag_id} is not in Airflow's database")
    _compat.lock_for_writing_dag(session, dag_id)
    state = _compat.dag_state(session, dag_id)
    if state is None or state.is_stale:
        log.info("DAG %s is not active in Airflow's database: writing it from the package", dag_id)
        _write_shipped_dag(session, dag_id)
        state = _compat.dag_state(session, dag_id)
    if state is None:
        raise DagMissing(f"DAG {dag_id} could not be written into Airflow's database")
    return state


def _write_shipped_dag(session: Session, dag_id: str) -> None:
    # Only here: building a DAG needs the Task SDK, which a submission ordinarily doesn't.
    from airflow_prominence.dags import shared

    builders = {
        JOB_DAG_ID: shared.prominence_job_dag,
        WORKFLOW_DAG_ID: shared.prominence_workflow_dag,
        MAINTENANCE_DAG_ID: shared.prominence_maintenance_dag,
    }
    _compat.lock_for_writing_dag(session, dag_id)
    dag = builders[dag_id]()
    dag.fileloc = str(Path(shared.__file__))
    dag.relative_fileloc = f"{dag_id}.py"
    try:
        with session.begin_nested():
            _compat.write_dag(session, dag, bundle=API_BUNDLE)
    except IntegrityError:
        # The DAG processor knows nothing of our lock and was writing it at the same moment: then its rows will do.
        log.info("DAG %s has just been written by the DAG processor", dag_id)


def write_workflow_dag(
    session: Session, plan: Plan, *, dag_id: str, owner: str, title: str, labels: Mapping[str, str], code: str
) -> None:
    """Write the DAG of a workflow; ``code`` is what its Code tab shows, the document without its secrets."""
    # Only here: building a DAG needs the Task SDK, which a submission of a job ordinarily doesn't.
    from airflow_prominence.dags import build

    tags = [f"{key}={value}" for key, value in labels.items()]
    dag = build.build_dag(plan, dag_id=dag_id, owner=owner, description=title, tags=[owner, title, *tags])
    dag.fileloc = str(Path(build.__file__))
    dag.relative_fileloc = f"{dag_id}.py"
    _compat.write_dag(session, dag, bundle=API_BUNDLE, code=code)


def forget_workflow_dag(session: Session, dag_id: str) -> None:
    """Delete the DAG of a workflow that is forgotten, with its runs; one that has a file of its own stays."""
    state = _compat.dag_state(session, dag_id)
    if state is not None and state.bundle == API_BUNDLE and dag_id not in SHIPPED_DAGS:
        _compat.delete_dag(session, dag_id)


def renew_dags(session: Session) -> None:
    """Let ``airflow db clean`` see that our DAGs are alive, though nobody parses them.

    A workflow's goes with the workflow, by our own retention; the command would stumble over one that still has runs.
    """
    _compat.renew_dags(session, API_BUNDLE, _RENEWED_AFTER)


def embedded_document(session: Session, dag_id: str, run_id: str) -> dict[str, Any] | None:
    """Return what ``build_dag`` has put into the DAG of a run: ``{"workflow", "owner", "params"}``, or None."""
    text = _compat.task_doc_json(session, dag_id, run_id, OUTCOME)
    return None if text is None else dict(json.loads(text))


def run_facts(session: Session, dag_id: str, run_id: str) -> RunFacts | None:
    """Return a run's state, conf and triggering user, or None if there is no such run."""
    return _compat.run_facts(session, dag_id, run_id)


def run_state(session: Session, dag_id: str, run_id: str) -> str | None:
    """Return the state of a run (``queued``, ``running``, ``success``, ``failed``), or None if there is no such run."""
    facts = _compat.run_facts(session, dag_id, run_id)
    return None if facts is None else facts.state


def phase_task_states(
    session: Session, dag_id: str, run_id: str, group_id: str = "", slot: int = -1
) -> dict[str, str | None]:
    """Return the states of the tasks whose ends say how a job went, by their ids; None is "not scheduled yet".

    Those are its phases (provision, stage_in, run, stage_out), as far as its group has them, or its one task.
    """
    ids = [in_group(group_id, task) for task in PHASE_TASKS]
    found = _compat.task_instances(session, dag_id, run_id, [*ids, group_id] if group_id else ids)
    return {ti.task_id: ti.state for ti in _of_slot(found, slot)}


def run_task(
    session: Session, dag_id: str, run_id: str, group_id: str = "", slot: int = -1
) -> TaskInstanceFacts | None:
    """Return the present instance of the task that runs a job, or None if the run has none."""
    ids = [in_group(group_id, RUN), *([group_id] if group_id else [])]
    found = _of_slot(_compat.task_instances(session, dag_id, run_id, ids), slot)
    return found[0] if found else None


def stage_out_task(
    session: Session, dag_id: str, run_id: str, group_id: str = "", slot: int = -1
) -> TaskInstanceFacts | None:
    """Return the present instance of the task ``stage_out`` of a job of the run, or None if it has none."""
    found = _of_slot(_compat.task_instances(session, dag_id, run_id, [in_group(group_id, STAGE_OUT)]), slot)
    return found[0] if found else None


def share_task(session: Session, dag_id: str, run_id: str, task_id: str, chunk: int) -> tuple[TaskInstanceFacts, int]:
    """Return the task that drives a share of a factory's jobs, and among how many such tasks they are shared out.

    Raises DagMissing if the run has no such task.
    """
    found = _compat.task_instances(session, dag_id, run_id, [task_id])
    mine = [ti for ti in found if ti.map_index == chunk]
    if not mine:
        raise DagMissing(f"Run {run_id} of DAG {dag_id} has no task {task_id} with index {chunk}")
    return mine[0], len(found)


def _of_slot(found: list[TaskInstanceFacts], slot: int) -> list[TaskInstanceFacts]:
    """Of a mapped task only the instance that drives the job in this place among its factory's."""
    if slot < 0:
        return found
    return [ti for ti in found if ti.map_index == slot % len(found)]


def tasks_by_group(session: Session, dag_id: str, run_id: str) -> dict[str, dict[int, dict[str, str | None]]]:
    """Return the states of a workflow's tasks that say how its jobs went: by group, by map index (-1), by phase.

    A job of one task has that under an empty name.
    """
    groups: dict[str, dict[int, dict[str, str | None]]] = {}
    for ti in _compat.task_instances(session, dag_id, run_id):
        group, _, phase = ti.task_id.rpartition(".")
        if not group:
            group, phase = ti.task_id, ""
        elif phase not in PHASE_TASKS:
            continue
        groups.setdefault(group, {}).setdefault(ti.map_index, {})[phase] = ti.state
    return groups


def tasks_not_well(session: Session, dag_id: str, run_id: str) -> list[str]:
    """Return the ids of a workflow's tasks that failed or were not run, but for those that only follow the others."""
    after = {OUTCOME, RELEASE, BEGIN}
    return [
        ti.task_id
        for ti in _compat.task_instances(session, dag_id, run_id)
        if ti.ended and ti.state != "success" and ti.task_id.rpartition(".")[2] not in after
    ]


def find_task_instance(session: Session, ti_id: str) -> TaskInstanceFacts | None:
    """Return the task instance that has this id now; None when it has been cleared since (a new try has a new id)."""
    return _compat.task_instance(session, ti_id)
