"""What the operators have in common: they begin in the triggerer, and their trigger ends them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import StartTriggerArgs

PHASE_TRIGGER = "airflow_prominence.triggers.phase.PhaseTrigger"
ARRAY_TRIGGER = "airflow_prominence.triggers.array.ArrayTrigger"
WORKFLOW_TRIGGER = "airflow_prominence.triggers.workflow.WorkflowTrigger"
MAINTENANCE_TRIGGER = "airflow_prominence.triggers.maintenance.MaintenanceTrigger"


def starts_as(trigger: str, **kwargs: Any) -> StartTriggerArgs:
    """Return the arguments by which the scheduler hands a task straight to the triggerer."""
    return StartTriggerArgs(trigger_cls=trigger, trigger_kwargs=kwargs, next_method="ended_by_trigger")


class TriggerOnlyOperator(BaseOperator):
    """A task without a worker process: the scheduler makes its trigger, and the trigger ends it.

    The arguments are a class attribute because a mapped operator never runs ``__init__``. They carry ids and names of
    phases only: Airflow stores them in clear.
    """

    start_from_trigger = True
    start_trigger_args: StartTriggerArgs

    def execute(self, context: Context) -> NoReturn:  # noqa: ARG002 - Airflow's signature
        """Hand over to the trigger where something does run the task in a process (``airflow dags test``)."""
        args = self.start_trigger_args
        module, _, name = args.trigger_cls.rpartition(".")
        trigger = getattr(import_module(module), name)(**(args.trigger_kwargs or {}))
        raise TaskDeferred(trigger=trigger, method_name=args.next_method)

    def ended_by_trigger(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 - Airflow's signature
        """Return what the trigger said; only reached where the trigger's event doesn't end the task by itself."""
        return event
