"""A whole workflow as one task."""

from __future__ import annotations

from airflow_prominence.operators.base import WORKFLOW_TRIGGER, TriggerOnlyOperator, starts_as


class WorkflowOperator(TriggerOnlyOperator):
    """Makes a workflow of the document in its run's conf and ends as that does."""

    start_trigger_args = starts_as(WORKFLOW_TRIGGER)
    ui_color = "#c9e7c5"
