"""A job as a task in a DAG that somebody writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator, Context

from airflow_prominence.operators.authored import check_written, conclude, document_text


class JobOperator(BaseOperator):
    """Runs a PROMINENCE job and waits for its end; holds no worker slot meanwhile.

    It fails, and may be retried by Airflow's ``retries``, unless all tasks of the job ended with exit code 0 and its
    outputs are stored. Its result is an object, each key of which is also an XCom of its own, where the job failed too:
    ``job`` (the id), ``name``, ``status``, ``exit_codes``, ``site``, ``nodes``, ``attempt``, ``node_success``,
    ``message`` and ``outputs`` (each with name, kind, file, size, sha256 and ``key`` in the object store, or ``path``
    on the job's own storage).

    An Asset among ``outlets`` whose name or URI ends with the name of an output's file gets that output's facts as the
    ``extra`` of its event.

    The job belongs to who started the run; of a run that no person started, to the task's ``owner``. The document may
    hold no secrets: an ``imagePullCredential`` is an Airflow connection's name.

    :param job: the job document of the REST interface, as a dict, or a text of JSON from another task (templated).
    """

    template_fields: Sequence[str] = ("job",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"job": "json"}
    ui_color = "#c9e7c5"

    def __init__(self, *, job: Mapping[str, Any] | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_written(job)
        self.job = job
        self.multiple_outputs = True

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Hand the rendered document over to the trigger, which brings it to the API."""
        self.begin(document_text(self.job))

    def begin(self, document: str) -> NoReturn:
        """Leave the worker; ``document`` is JSON text."""
        # Only here: a DAG file is read often, and must not bring an HTTP client with it.
        from airflow_prominence.triggers.phase import PhaseTrigger

        self.defer(
            trigger=PhaseTrigger("job", document=document, to_worker=True),
            method_name="conclude",
            timeout=self.execution_timeout,
        )
        raise AssertionError("defer raises")

    def conclude(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Say how the job ended."""
        return conclude(context, event)


__all__ = ["JobOperator"]
