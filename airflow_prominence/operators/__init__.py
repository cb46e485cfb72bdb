"""Operators: thin faces of the driver.

For those who write DAGs: ``JobOperator`` and ``prominence_task_group``. The others are what generated DAGs are made of;
none of them needs a worker.
"""

from airflow_prominence.operators.group import JobTaskGroup, prominence_task_group
from airflow_prominence.operators.job import JobOperator
from airflow_prominence.operators.maintenance import MaintenanceOperator
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

__all__ = [
    "CompactJobOperator",
    "JobArrayOperator",
    "JobOperator",
    "JobTaskGroup",
    "MaintenanceOperator",
    "OutcomeOperator",
    "ProvisionOperator",
    "ReleaseOperator",
    "RunOperator",
    "StageInOperator",
    "StageOutOperator",
    "prominence_task_group",
]
