"""What the operators for people who write DAGs have in common: their document, and what they make of a job's end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_prominence import documents


def check_written(job: object) -> None:
    """Refuse, as the DAG file is read, what could only go wrong later, or what Airflow would store in clear.

    ``job`` may still hold templates and other tasks' results; its full validation is the API's, once it is rendered.
    """
    if isinstance(job, dict):
        refuse_secrets(job)
    elif isinstance(job, (list, tuple, set, int, float)) or job is None:
        raise TypeError(f"job: must be a job document, a dict; this is a {type(job).__name__}")


def refuse_secrets(document: Mapping[str, Any]) -> None:
    """Raise ValueError if there is a secret in the document: what a DAG says is read by many."""
    for path in documents.extract(document)[1]:
        how = "name an Airflow connection as imagePullCredential" if ".imagePullCredential." in path else "leave it out"
        raise ValueError(f"job.{path}: is a secret, which has no place in a DAG: {how}")


def document_text(job: object) -> str:
    """Return a rendered document as JSON text, however the author's file or another task has given it."""
    if isinstance(job, str):
        try:
            job = json.loads(job)
        except ValueError as error:
            raise AirflowFailException(f"job: is a text that is no JSON: {error}") from None
    if not isinstance(job, Mapping):
        raise AirflowFailException(f"job: must be a job document, a dict; this is a {type(job).__name__}")
    try:
        refuse_secrets(job)
        return json.dumps(job)
    except (TypeError, ValueError) as error:
        raise AirflowFailException(str(error)) from None


def conclude(context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a job that ended well, its outputs noted as events of Assets; raise if it did not.

    The result is pushed also where the job failed: what looks after failures wants its exit codes.
    """
    result = {key: value for key, value in event.items() if key not in ("end", "phase")}
    sentence = str(event["message"])
    if event["end"] == "skipped":
        raise AirflowSkipException(sentence)
    if event["end"] != "success":
        for key, value in {**result, "return_value": result}.items():
            context["ti"].xcom_push(key=key, value=value)
        if "job" not in event:
            # Its document was refused: trying again would change nothing.
            raise AirflowFailException(sentence)
        raise AirflowException(sentence)
    for asset in context["task"].outlets:
        output = None if not isinstance(asset, Asset) else output_of(asset, event["outputs"])
        if output is not None:
            context["outlet_events"][asset].extra.update({"job": event["job"], **output})
    return result


def output_of(asset: Asset, outputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the job's output that an Asset stands for: the one that is called as its name or its URI ends."""
    called = {name.rstrip("/").rpartition("/")[2] for name in (asset.name, asset.uri)}
    return next((output for output in outputs if output["file"] in called), None)
