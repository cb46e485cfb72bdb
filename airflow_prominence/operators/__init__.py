"""Operators: thin faces of the driver.

For those who write DAGs: ``JobOperator``. The others are what generated DAGs are made of; none of them needs a worker.
"""

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
    "MaintenanceOperator",
    "OutcomeOperator",
    "ProvisionOperator",
    "ReleaseOperator",
    "RunOperator",
    "StageInOperator",
    "StageOutOperator",
]
