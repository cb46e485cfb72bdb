"""The phases of a job as operators; they differ in the phase to which the driver drives."""

from __future__ import annotations

from typing import Any

from airflow_prominence.operators.base import ARRAY_TRIGGER, PHASE_TRIGGER, TriggerOnlyOperator, starts_as


class ProvisionOperator(TriggerOnlyOperator):
    """Waits until a site has given the job its place."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="provision")
    ui_color = "#dbe9f6"


class StageInOperator(TriggerOnlyOperator):
    """Waits until the job's input is there and its first task is about to start."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="stage_in")
    ui_color = "#e3f1e1"


class RunOperator(TriggerOnlyOperator):
    """Waits until the job's tasks have ended; fails unless they ended well."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="run")
    ui_color = "#c9e7c5"


class StageOutOperator(TriggerOnlyOperator):
    """Waits until the job's output is where it belongs; skipped if the job never ran.

    Cleared after the job's end it has the output uploaded again, and fails if there is nothing left to upload from.
    """

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="stage_out")
    ui_color = "#e3f1e1"


class ReleaseOperator(TriggerOnlyOperator):
    """Waits until the job's place has been given back. It only reports: the job's own end frees the place."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="release")
    ui_color = "#dbe9f6"


class OutcomeOperator(TriggerOnlyOperator):
    """Fails unless the run's job ended well, so that the run's own state tells the truth."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="outcome")
    ui_color = "#f6e9db"


class CompactJobOperator(TriggerOnlyOperator):
    """A job of a generated DAG in one task, from its place to its end."""

    start_trigger_args = starts_as(PHASE_TRIGGER, phase="job")
    custom_operator_name = "JobOperator"
    ui_color = "#c9e7c5"


class JobArrayOperator(TriggerOnlyOperator):
    """A share of a factory's jobs in one task, all driven at once.

    Mapped over the numbers of the shares. Which jobs a share has is the API's to say: the mapped value never reaches a
    trigger (``mechanics.md`` 7).
    """

    start_trigger_args = starts_as(ARRAY_TRIGGER)
    ui_color = "#c9e7c5"

    def __init__(self, *, chunk: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunk = chunk
