"""Names that the rest of Airflow sees: DAG ids, task ids, run ids. Imports nothing, so that anybody may use it."""

from __future__ import annotations

import re

JOB_DAG_ID = "prominence_job"
MAINTENANCE_DAG_ID = "prominence_maintenance"
SHIPPED_DAGS = (JOB_DAG_ID, MAINTENANCE_DAG_ID)

#: The bundle of the DAGs that the API writes itself; no DAG processor may ever parse it (``mechanics.md`` 0.6).
API_BUNDLE = "prominence"

BEGIN = "begin"
PROVISION = "provision"
STAGE_IN = "stage_in"
RUN = "run"
STAGE_OUT = "stage_out"
RELEASE = "release"
OUTCOME = "outcome"

# The tasks whose ends say how a job went; `release` and `outcome` only follow.
PHASE_TASKS = (PROVISION, STAGE_IN, RUN, STAGE_OUT)

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 100


def run_id_for(job_id: int, name: str) -> str:
    """Return the id of a job's run, readable in Airflow's UI and safe in its URLs: ``job-7375.calculate-pi``."""
    readable = _UNSAFE.sub("-", name).strip("-_")[:_LONGEST_NAME].rstrip("-_")
    return f"job-{job_id}.{readable}" if readable else f"job-{job_id}"
