"""The housekeeping task."""

from __future__ import annotations

from airflow_prominence.operators.base import MAINTENANCE_TRIGGER, TriggerOnlyOperator, starts_as


class MaintenanceOperator(TriggerOnlyOperator):
    """Asks the API to keep house once."""

    start_trigger_args = starts_as(MAINTENANCE_TRIGGER)
    ui_color = "#eeeeee"
