"""The DAG of a document in the folder of documents; what each stub calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from airflow.sdk import Param
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from airflow_prominence import configuration
from airflow_prominence.dags.build import build_dag
from airflow_prominence.dags.plan import plan_of
from airflow_prominence.documents import DropInError, Limits, parse_drop_in

if TYPE_CHECKING:
    import datetime as dt

    from airflow.sdk import DAG


_SCHEDULED_AT_ONCE = 16


class Refused(ValueError):
    """A file of the folder is no document, or none that may be here."""


def dag_of(text: str, file: str) -> DAG:
    """Build the DAG of a document; raises Refused, whose sentence Airflow shows as the file's import error."""
    limits = Limits(max_cpus=configuration.number("max_cpus", 1024), max_nodes=configuration.number("max_nodes", 1000))
    try:
        found = parse_drop_in(text, file, limits)
    except DropInError as error:
        # The traceback that Airflow shows then has no more than these lines
        raise Refused(str(error)) from None
    workflow = found.workflow
    # Each run is a workflow: what a long catch-up makes must not be made all at once
    scheduled = {"max_active_runs": _SCHEDULED_AT_ONCE} if found.schedule is not None else {}
    return build_dag(
        plan_of(workflow),
        dag_id=found.dag_id,
        owner=found.owner,
        document=found.document,
        description=found.description or workflow.name,
        tags=[found.owner, workflow.name, *(f"{key}={value}" for key, value in workflow.labels.items()), *found.tags],
        schedule=found.schedule,
        start_date=found.start_date,
        end_date=found.end_date,
        catchup=found.catchup,
        deadline=None if found.deadline is None else _alert(found.deadline),
        params={name: _param(value) for name, value in found.params.items()},
        **scheduled,
    )


def refuse(sentence: str) -> NoReturn:
    """Fail the import of a stub."""
    raise Refused(sentence)


def _param(default: str | float) -> Param:
    return Param(default, type="string" if isinstance(default, str) else "number")


def _alert(after: dt.timedelta) -> DeadlineAlert:
    # By its path: this module is parsed often, and needs nothing of the triggers
    callback = AsyncCallback("airflow_prominence.triggers.deadline.run_is_late")
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=after, callback=callback)
