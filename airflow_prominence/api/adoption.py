"""Workflows of runs that were started in Airflow: by its button, its REST interface or a schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import _compat, documents
from airflow_prominence._compat import RunFacts
from airflow_prominence.api import workflows as making
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.submission import Owner
from airflow_prominence.dags import submit as dags
from airflow_prominence.dags.names import WORKFLOW_DAG_ID
from airflow_prominence.store import workflows, workflowviews
from airflow_prominence.store.submission import workflow_secrets
from airflow_prominence.store.tables import Workflow


def workflow_of_run(session: Session, dag_id: str, run_id: str, run: RunFacts) -> Workflow:
    """Return the workflow of a run; make it of what its DAG was made of, if it is not there yet."""
    _compat.lock_for_writing_dag(session, f"{dag_id} {run_id}")
    found = workflows.workflow_of_run(session, dag_id, run_id)
    if found is not None:
        return found
    made_of = workflows.first_of_dag(session, dag_id)
    embedded = dags.embedded_document(session, dag_id, run_id)
    if made_of is not None and embedded is None:
        owner, document = _clone(session, made_of, run)
    elif embedded is not None:
        owner, document = _owner(run, str(embedded.get("owner") or "")), _of_run(embedded, run)
        made_of = None
    else:
        raise ApiError(400, f"DAG {dag_id} was not made of a workflow")
    try:
        prepared = making.prepare(document, owner)
    except documents.DocumentError as refused:
        raise ApiError(400, str(refused)) from None
    return making.adopt(session, prepared, made_of, dag_id, run_id)


def launched_by(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return, as the driver sees it, the workflow that a run of the shared DAG has made of its document.

    The owner is who pressed the button. Asked again, the workflow is the same.
    """
    _compat.lock_for_writing_dag(session, f"{dag_id} {run_id}")
    workflow = workflows.launched_by(session, run_id)
    if workflow is None:
        run = dags.run_facts(session, dag_id, run_id)
        if run is None or dag_id != WORKFLOW_DAG_ID:
            raise ApiError(400, f"There is no run {run_id} of DAG {WORKFLOW_DAG_ID}")
        document = run.conf.get("workflow")
        if document is None:
            raise ApiError(400, "workflow: is missing; give the workflow's document in the trigger form")
        try:
            workflow = making.launch(session, document, _owner(run, ""), run_id)
        except documents.DocumentError as refused:
            raise ApiError(400, f"workflow.{refused}" if refused.path else f"workflow: {refused}") from None
    view = workflowviews.describe(session, workflow)
    return {
        "id": workflow.id,
        "status": view["status"],
        "reason": workflow.reason,
        "ended": workflow.ended_at is not None,
        "progress": view["progress"],
        "dag_id": workflow.dag_id,
        "run_id": workflow.run_id,
    }


def _of_run(embedded: Mapping[str, Any], run: RunFacts) -> dict[str, Any]:
    """Return the document of a DAG with the run's parameters and date put in."""
    params: Mapping[str, Any] = embedded.get("params") or {}
    try:
        values = documents.values_of_run(params, run.conf, run.date)
    except documents.DocumentError as refused:
        raise ApiError(400, f"params.{refused}") from None
    return documents.put_in(embedded["workflow"], values, dollars=bool(params))


def _clone(session: Session, of: Workflow, run: RunFacts) -> tuple[Owner, dict[str, Any]]:
    owner = _owner(run, "")
    if owner.name == of.owner:
        return Owner(of.owner, tuple(of.owner_groups), of.email), making.original(session, of)
    if workflow_secrets(session, of.id):
        sentence = "holds its owner's secrets, so nobody else can run it"
        raise ApiError(400, f"Workflow {of.id} {sentence}")
    return owner, json.loads(json.dumps(of.document))


def _owner(run: RunFacts, scheduled: str) -> Owner:
    """Return whose the run is: who started it, as Airflow recorded it, or for a scheduled one whom its DAG names.

    A backfill is of who has asked for it: with values of that user's choice, it must not act for another.
    """
    name = run.user or ("" if run.run_type == "manual" else scheduled)
    if not name:
        raise ApiError(400, "The run was started by no user, so its workflow would have no owner")
    return Owner(name)
