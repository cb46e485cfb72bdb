"""``build_dag``: the one way from a plan to a DAG, for the REST interface, for dropped files and for clones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, TriggerRule

from airflow_prominence.dags import names
from airflow_prominence.dags.plan import Group, Plan
from airflow_prominence.operators.phases import (
    CompactJobOperator,
    JobArrayOperator,
    OutcomeOperator,
    ProvisionOperator,
    ReleaseOperator,
    RunOperator,
    StageInOperator,
    StageOutOperator,
)

# Not a limit: how many jobs run is decided by the sites' capacity, not by the scheduler.
UNLIMITED = 1_000_000

_LONGEST_TAG = 100

_DOC = """\
### A PROMINENCE workflow

Each run of this DAG is one workflow: a group or a task for each of its jobs, an edge for each dependency, and
`outcome`, which fails, and the run with it, unless every job ended well. A job that fails stops what depends on it and
nothing else. The tasks wait in the triggerer and hold no worker slot.

*Trigger* makes a workflow of the same document for the user who presses it. Clearing a job's group tries that job
again. Marking the run as failed deletes the workflow.
"""


def build_dag(
    plan: Plan,
    *,
    dag_id: str,
    owner: str,
    document: Mapping[str, Any] | None = None,
    description: str = "",
    tags: Iterable[str] = (),
    **options: Any,
) -> DAG:
    """Return the DAG of a plan.

    ``document`` is a workflow document without secrets: it comes to lie in the serialized DAG, and whoever makes a run
    of it (the scheduler, a user) gets a workflow of it. Without one only runs whose jobs are made already, and clones
    of those, find theirs. ``options`` go to ``DAG`` (schedule, start_date, params …).
    """
    settings: dict[str, Any] = {
        "schedule": None,
        "catchup": False,
        "max_active_runs": UNLIMITED,
        "max_active_tasks": UNLIMITED,
        "is_paused_upon_creation": False,
        "doc_md": _DOC,
        "default_args": {"retries": 0, "owner": owner},
        **options,
    }
    every_tag = dict.fromkeys(["prominence", *(tag[:_LONGEST_TAG] for tag in tags)])
    with DAG(dag_id=dag_id, description=description, tags=list(every_tag), **settings) as dag:
        ends: dict[str, list[BaseOperator]] = {}
        asked: list[BaseOperator] = []
        for group in plan.groups:
            first, last, phases = _tasks(group)
            for parent in group.parents:
                ends[parent] >> first
            ends[group.id] = last
            asked += phases
        outcome = OutcomeOperator(task_id=names.OUTCOME)
        if document is not None:
            params = {name: _default(param) for name, param in (options.get("params") or {}).items()}
            outcome.doc_json = json.dumps({"workflow": document, "owner": owner, "params": params})
        # Without it a run whose last release succeeds would count as a success whatever became of the jobs.
        asked >> outcome.as_teardown(on_failure_fail_dagrun=True)
    return dag


def _default(param: Any) -> Any:
    return param.value if isinstance(param, Param) else param


def _tasks(group: Group) -> tuple[BaseOperator, list[BaseOperator], list[BaseOperator]]:
    """Make a group's tasks; return the first, those whose success its children wait for, and all whose end counts."""
    if group.form == "phases":
        return _in_phases(group)
    task: Any
    if group.form == "compact":
        task = CompactJobOperator(task_id=group.id, task_display_name=group.member)
    else:
        shown = f"{group.member} ({group.jobs} job{'' if group.jobs == 1 else 's'})"
        array = JobArrayOperator.partial(task_id=group.id, task_display_name=shown)
        task = array.expand(chunk=list(range(group.chunks)))
    return task, [task], [task]


def _in_phases(group: Group) -> tuple[BaseOperator, list[BaseOperator], list[BaseOperator]]:
    with TaskGroup(group_id=group.id, group_display_name=group.member):
        begin = EmptyOperator(task_id=names.BEGIN)
        begin.is_setup = True
        provision = ProvisionOperator(task_id=names.PROVISION)
        phases: list[BaseOperator] = [provision]
        if group.stages_in:
            phases.append(StageInOperator(task_id=names.STAGE_IN))
        run = RunOperator(task_id=names.RUN)
        phases.append(run)
        last: list[BaseOperator] = [run]
        if group.stages_out:
            stage_out = StageOutOperator(task_id=names.STAGE_OUT, trigger_rule=TriggerRule.ALL_DONE)
            phases.append(stage_out)
            last.append(stage_out)
        for before, after in zip([begin, *phases], phases, strict=False):
            before >> after
        release = ReleaseOperator(task_id=names.RELEASE)
        phases[-1] >> release.as_teardown(setups=begin)
    return begin, last, phases
