"""A job as a group of tasks, one a phase, in a DAG that somebody writes: each phase waits for its task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, BaseOperator, Context, TaskGroup, TriggerRule

from airflow_prominence.operators.authored import check_written, conclude, document_text
from airflow_prominence.operators.phases import ReleaseOperator, RunOperator, StageInOperator


class _WrittenProvisionOperator(BaseOperator):
    """Brings the rendered document to the API and waits until a site has given the job its place."""

    template_fields: Sequence[str] = ("job",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"job": "json"}
    custom_operator_name = "ProvisionOperator"
    ui_color = "#dbe9f6"

    def __init__(self, *, job: Mapping[str, Any] | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_written(job)
        self.job = job

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Leave the worker; the trigger ends the task."""
        from airflow_prominence.triggers.phase import PhaseTrigger

        self.defer(
            trigger=PhaseTrigger("provision", document=document_text(self.job)),
            method_name="conclude",
            timeout=self.execution_timeout,
        )

    def conclude(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 - Airflow's signature
        """Return what the trigger said; not reached, since the trigger ends the task."""
        return event


class _WrittenStageOutOperator(BaseOperator):
    """Waits until the job's output is where it belongs, and tells of it as ``JobOperator`` does."""

    custom_operator_name = "StageOutOperator"
    ui_color = "#e3f1e1"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple_outputs = True

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Leave the worker and wait."""
        from airflow_prominence.triggers.phase import PhaseTrigger

        self.defer(
            trigger=PhaseTrigger("stage_out", to_worker=True),
            method_name="conclude",
            timeout=self.execution_timeout,
        )

    def conclude(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Say how it went."""
        return conclude(context, event)


class JobTaskGroup(TaskGroup):
    """The tasks of a job: ``provision``, ``stage_in``, ``run``, ``stage_out``, ``release`` and ``end``.

    ``end`` succeeds if the job did, and is what tasks after the group wait for.
    """

    @property
    def provision(self) -> BaseOperator:
        """Waits for the job's place; the job holds it before its input is staged in, until ``stage_in`` starts."""
        return self._task("provision")

    @property
    def stage_in(self) -> BaseOperator:
        """Waits until input and images are there; the job holds before its first task, until ``run`` starts."""
        return self._task("stage_in")

    @property
    def run(self) -> BaseOperator:
        """Waits until the job's tasks have ended; it holds before its output is stored, until ``stage_out`` starts."""
        return self._task("run")

    @property
    def stage_out(self) -> BaseOperator:
        """Waits until the output is stored. Its result is that of ``JobOperator``."""
        return self._task("stage_out")

    @property
    def release(self) -> BaseOperator:
        """Waits until the place has been given back, whatever has become of the job."""
        return self._task("release")

    @property
    def end(self) -> BaseOperator:
        """Succeeds if the job ended well."""
        return self._task("end")

    def _task(self, phase: str) -> BaseOperator:
        return cast("BaseOperator", self.get_child_by_label(phase))


def prominence_task_group(
    job: Mapping[str, Any] | str, *, group_id: str, outlets: Iterable[Asset] = (), **options: Any
) -> JobTaskGroup:
    """Make a job a group of tasks, one for each of its phases, between which other tasks may come.

    The job holds at the border of each phase until that phase's task starts, so that a task between two of them gates::

        work = prominence_task_group({...}, group_id="work")
        work.stage_in >> my_check() >> work.run

    Its node is held meanwhile, its walltime does not count. If the job will never be let go on, as a task before
    ``run`` did not end well, it is ended and its place given back; ``release`` tells so.

    :param job: the job document, as for ``JobOperator`` (templated).
    :param outlets: Assets, each of which stands for the output whose name it ends with, as for ``JobOperator``.
    :param options: what ``TaskGroup`` takes (tooltip, default_args …).
    """
    group = JobTaskGroup(group_id=group_id, **options)
    with group:
        begin = EmptyOperator(task_id="begin")
        begin.is_setup = True
        provision = _WrittenProvisionOperator(task_id="provision", job=job)
        stage_in = StageInOperator(task_id="stage_in")
        run = RunOperator(task_id="run")
        stage_out = _WrittenStageOutOperator(
            task_id="stage_out", trigger_rule=TriggerRule.ALL_DONE, outlets=list(outlets)
        )
        release = ReleaseOperator(task_id="release")
        end = EmptyOperator(task_id="end")
        begin >> provision >> stage_in >> run >> stage_out
        stage_out >> release.as_teardown(setups=begin)
        [run, stage_out] >> end
    return group
