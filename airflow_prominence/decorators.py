"""``@task.prominence``: a function that says what a job runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import Context
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.exceptions import AirflowFailException

from airflow_prominence.operators.authored import document_text
from airflow_prominence.operators.job import JobOperator

__all__ = ["prominence_task"]


class _ProminenceDecoratedOperator(DecoratedOperator, JobOperator):
    """The function runs in a worker, before the job; what it returns is data, in which no template is looked for."""

    custom_operator_name = "@task.prominence"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *JobOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **JobOperator.template_fields_renderers,
    }
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, job=job or {}, **kwargs)

    def execute(self, context: Context) -> Any:
        """Ask the function, then run the job."""
        answer = self.python_callable(*self.op_args, **self.determine_kwargs(context))
        self.job = completed(self.job, answer)
        self.begin(document_text(self.job))


def completed(job: Any, answer: object) -> dict[str, Any]:
    """Return the document with what the function has returned: a command, its words, or keys of the document."""
    if isinstance(answer, Mapping):
        return {**job, **answer}
    if isinstance(answer, (list, tuple)) and answer and all(isinstance(word, str) for word in answer):
        answer = shlex.join(answer)
    if not isinstance(answer, str) or not answer.strip():
        sentence = "must return a command (a text or a list of words) or a dict of keys of the job's document"
        raise AirflowFailException(f"The function of @task.prominence {sentence}, not {type(answer).__name__}")
    tasks = job.get("tasks")
    if not isinstance(tasks, list) or len(tasks) != 1 or not isinstance(tasks[0], Mapping):
        sentence = "must have exactly one task, whose command the function returns"
        raise AirflowFailException(f"job.tasks: {sentence}; to change more, return a dict")
    return {**job, "tasks": [{**tasks[0], "cmd": answer}]}


def prominence_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a job of a function: ``@task.prominence(job={...})``.

    As with ``@task.bash`` and ``@task.kubernetes_cmd`` the function itself runs in Airflow's worker, when the task
    starts. It returns the command for the one task of ``job``, as the document's ``cmd`` or as a list of words, or a
    dict that takes the place of keys of ``job``. The container needs no Python. All else is as ``JobOperator`` has it.

    :param job: the document without what the function returns (templated).
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_ProminenceDecoratedOperator, **kwargs
    )
