"""Sensors: tasks that wait for a job or a workflow that something else runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airflow_prominence.triggers.look import LookTrigger

__all__ = ["JobSensor", "WorkflowSensor"]


class _EndSensor(BaseSensorOperator):
    """Waits in the triggerer; holds no worker slot."""

    ui_color = "#f6e9db"

    def __init__(self, *, fail_with_it: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_with_it = fail_with_it
        self.multiple_outputs = True

    def _wait(self, **what: int) -> None:
        self.defer(trigger=LookTrigger(**what), method_name="ended", timeout=self.timeout)

    def ended(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return how it ended; fail if it did not end well and that is wanted."""
        if "refused" in event:
            raise AirflowFailException(str(event["refused"]))
        if not event["success"] and self.fail_with_it:
            for key, value in {**event, "return_value": dict(event)}.items():
                context["ti"].xcom_push(key=key, value=value)
            raise AirflowFailException(str(event["message"]))
        return dict(event)


class JobSensor(_EndSensor):
    """Waits for the end of a job, by its id, and fails unless it ended well.

    The job must belong to the user to whom a job of this run would belong: who started the run, else the task's
    ``owner``. The result has ``job``, ``status``, ``reason``, ``exit_codes``, ``success`` and ``message``.

    :param job_id: the id of the job (templated).
    :param fail_with_it: whether to fail if the job did; else the task succeeds with its end, whatever that was.
    """

    template_fields: Sequence[str] = ("job_id",)

    def __init__(self, *, job_id: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Leave the worker and wait."""
        self._wait(job=number("job_id", self.job_id))


class WorkflowSensor(_EndSensor):
    """Waits for the end of a workflow, by its id, and fails unless all its jobs ended well.

    As ``JobSensor``; the result has ``workflow``, ``status``, ``reason``, ``progress``, ``success`` and ``message``.

    :param workflow_id: the id of the workflow (templated).
    :param fail_with_it: whether to fail if the workflow did; else the task succeeds with its end, whatever that was.
    """

    template_fields: Sequence[str] = ("workflow_id",)

    def __init__(self, *, workflow_id: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Leave the worker and wait."""
        self._wait(workflow=number("workflow_id", self.workflow_id))


def number(field: str, value: object) -> int:
    """Return an id, which a template makes a text."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise AirflowFailException(f"{field}: must be the number of a job or workflow, not {text[:60]!r}")
    return int(text)
