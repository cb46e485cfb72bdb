from __future__ import annotations

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from airflow_prominence import operators
from airflow_prominence.operators.base import TriggerOnlyOperator
from airflow_prominence.triggers.array import ArrayTrigger
from airflow_prominence.triggers.phase import PhaseTrigger

_PHASES = {
    operators.ProvisionOperator: "provision",
    operators.StageInOperator: "stage_in",
    operators.RunOperator: "run",
    operators.StageOutOperator: "stage_out",
    operators.ReleaseOperator: "release",
    operators.OutcomeOperator: "outcome",
    operators.CompactJobOperator: "job",
}


@pytest.mark.parametrize(("operator", "phase"), _PHASES.items())
def test_an_operator_is_its_phase(operator: type[TriggerOnlyOperator], phase: str) -> None:
    # A mapped operator never runs __init__: the class must say it all.
    assert operator.start_from_trigger
    assert operator.start_trigger_args.trigger_kwargs == {"phase": phase}
    assert operator.__init__ is BaseOperator.__init__ or "__init__" not in vars(operator)


@pytest.mark.parametrize(("operator", "phase"), _PHASES.items())
def test_where_a_process_runs_it_it_defers(operator: type[TriggerOnlyOperator], phase: str) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(task_id="t").execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, PhaseTrigger)
    assert trigger.phase == phase
    assert callable(getattr(operator, deferred.value.method_name))


def test_a_mapped_array_is_handed_to_its_trigger_with_no_argument() -> None:
    assert operators.JobArrayOperator.start_from_trigger
    assert operators.JobArrayOperator.start_trigger_args.trigger_kwargs == {}
    with pytest.raises(TaskDeferred) as deferred:
        operators.JobArrayOperator(task_id="t", chunk=3).execute({})
    assert isinstance(deferred.value.trigger, ArrayTrigger)


def test_the_public_surface() -> None:
    assert sorted(operators.__all__) == [
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
    assert all(hasattr(operators, name) for name in operators.__all__)
