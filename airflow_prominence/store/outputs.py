"""What lies in the object store of a job's outputs: noted as its runner reports it, and how a description shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Job, StagedOutput

KINDS: Final[Mapping[str, str]] = {"file": "outputFiles", "dir": "outputDirs"}
"""The kinds of outputs, each with the key of a document that asks for them."""

_LONGEST_FILE = 255
_LONGEST_NAME = 4096


def on_users_storage(job: Job) -> bool:
    """Tell whether the job's outputs go to its user's own storage: nothing of ours ever removes them there."""
    return bool(job.document.get("storage", {}).get("default"))


def wanted(job: Job) -> list[dict[str, str]]:
    """Return the outputs that the document asks for, each with its kind, in the document's order."""
    return [{"kind": kind, "name": name} for kind, key in KINDS.items() for name in job.document.get(key, ())]


def fault(job: Job, data: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the report of an output, if anything is: it must be one that the document asks for."""
    key = KINDS.get(data["kind"])
    if key is None or data["asked"] not in job.document.get(key, ()):
        return "asked: the job asks for no such output"
    file = data["file"]
    if not file or "/" in file or file in (".", "..") or len(file.encode()) > _LONGEST_FILE:
        return "file: must be a plain name"
    if not data["name"] or len(data["name"]) > _LONGEST_NAME:
        return f"name: must be a path of at most {_LONGEST_NAME} characters"
    return None


def note(session: Session, job: Job, data: Mapping[str, Any], at: float) -> None:
    """Remember an output of the job's present attempt, in place of what an earlier one has stored under its name."""
    values = {
        "asked": data["asked"],
        "attempt": job.attempt,
        "file": data["file"],
        "size": data["size"],
        "sha256": data["sha256"],
        "stored_at": at,
    }
    statement = insert(StagedOutput).values(job_id=job.id, kind=data["kind"], name=data["name"], **values)
    session.execute(statement.on_conflict_do_update(index_elements=["job_id", "kind", "name"], set_=values))


def shown(session: Session, job: Job) -> dict[str, list[dict[str, Any]]]:
    """Return the job's outputs as its description shows them, but with ``file`` where its ``url`` belongs.

    What is not stored, or is gone again, has its name alone. Only the last attempt's outputs are the job's.
    """
    wanted = {key: job.document[key] for key in KINDS.values() if key in job.document}
    stored = of_attempt(session, job) if wanted else []
    view: dict[str, list[dict[str, Any]]] = {}
    for kind, key in KINDS.items():
        if key in wanted:
            of_kind = [row for row in stored if row.kind == kind]
            view[key] = [item for asked in wanted[key] for item in _items(asked, of_kind)]
    return view


def of_attempt(session: Session, job: Job) -> list[StagedOutput]:
    """Return the outputs of the job's last attempt that are stored, as far as they are still there."""
    if job.outputs_gone_at is not None and not on_users_storage(job):
        return []
    query = select(StagedOutput).where(StagedOutput.job_id == job.id, StagedOutput.attempt == job.attempt)
    return list(session.scalars(query.order_by(StagedOutput.name)))


def are_missing(session: Session, job: Job) -> bool:
    """Tell whether an output that the document asks for is not stored."""
    return any("file" not in item for items in shown(session, job).values() for item in items)


def _items(asked: str, stored: list[StagedOutput]) -> list[dict[str, Any]]:
    found = [row for row in stored if row.asked == asked]
    if not found:
        # a pattern before it has stored this one already
        found = [row for row in stored if row.name == asked]
    return [{"name": row.name, "size": row.size, "file": row.file} for row in found] or [{"name": asked}]
