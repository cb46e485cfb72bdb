"""Names that the rest of Airflow sees: DAG ids, task ids, run ids. Imports nothing, so that anybody may use it."""

from __future__ import annotations

import re

JOB_DAG_ID = "prominence_job"
MAINTENANCE_DAG_ID = "prominence_maintenance"
WORKFLOW_DAG_ID = "prominence_workflow"
SHIPPED_DAGS = (JOB_DAG_ID, WORKFLOW_DAG_ID, MAINTENANCE_DAG_ID)

#: The bundle of the DAGs that the API writes itself; no DAG processor may ever parse it (``mechanics.md`` 0.6).
API_BUNDLE = "prominence"

BEGIN = "begin"
PROVISION = "provision"
STAGE_IN = "stage_in"
RUN = "run"
STAGE_OUT = "stage_out"
RELEASE = "release"
OUTCOME = "outcome"
WORKFLOW = "workflow"

# The tasks whose ends say how a job went; `release` and `outcome` only follow.
PHASE_TASKS = (PROVISION, STAGE_IN, RUN, STAGE_OUT)

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 100


def in_group(group_id: str, task: str) -> str:
    """Return the id of a phase's task in a job's group; the shared DAG's one job has none."""
    return f"{group_id}.{task}" if group_id else task


def run_id_for(job_id: int, name: str) -> str:
    """Return the id of a job's run, readable in Airflow's UI and safe in its URLs: ``job-7375.calculate-pi``."""
    return _readable(f"job-{job_id}", name)


def workflow_dag_id(workflow_id: int, name: str) -> str:
    """Return the id of the DAG that is made of a workflow: ``workflow-7380.my-sweep``."""
    return _readable(f"workflow-{workflow_id}", name)


def _readable(number: str, name: str) -> str:
    readable = _UNSAFE.sub("-", name).strip("-_")[:_LONGEST_NAME].rstrip("-_")
    return f"{number}.{readable}" if readable else number
