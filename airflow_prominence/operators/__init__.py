"""Operators: thin faces of the driver. None of them ever needs a worker."""

from airflow_prominence.operators.maintenance import MaintenanceOperator
from airflow_prominence.operators.phases import (
    JobArrayOperator,
    JobOperator,
    OutcomeOperator,
    ProvisionOperator,
    ReleaseOperator,
    RunOperator,
    StageInOperator,
    StageOutOperator,
)

__all__ = [
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
