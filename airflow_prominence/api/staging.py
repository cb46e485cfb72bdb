"""What a node fetches for a job before it runs and stores of it afterwards, and where users find that."""

from __future__ import annotations

import posixpath
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api import gathering
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.settings import settings
from airflow_prominence.api.uploads import find_upload
from airflow_prominence.objects import (
    INPUT_LIFETIME_S,
    OUTPUT_GET_LIFETIME_S,
    RENEWED_OUTPUT_LIFETIME_S,
    BadKey,
    PutTarget,
    StoreUnavailable,
    object_store,
    output_key,
    scratch_folder,
)
from airflow_prominence.objects.keys import NotYourGroup, check_key, place_of
from airflow_prominence.store import outputs as stored
from airflow_prominence.store.tables import Job


def substitutions(job: Job) -> dict[str, str]:
    """Return the ids that may stand in a job's commands and folders, by the names that stand for them."""
    workflow = {} if job.workflow_id is None else {"PROMINENCE_WORKFLOW_ID": str(job.workflow_id)}
    return {"PROMINENCE_JOB_ID": str(job.id), **workflow}


def artifacts(session: Session, job: Job, parsed: documents.Job) -> list[dict[str, Any]]:
    """Return what a job's artifacts are, with a URL each, as JSON values: several where they are outputs of many."""
    family = gathering.family_of(session, job, parsed)
    found: list[dict[str, Any]] = []
    for artifact in parsed.artifacts:
        gathered = None if family is None else family.gathered(artifact.url, job.member or "")
        if family is None or gathered is None:
            found.append(_artifact(job, parsed.storage, artifact))
        else:
            found += gathering.entries(session, job, family, gathered, artifact)
    return found


def _artifact(job: Job, storage: documents.Storage | None, artifact: documents.Artifact) -> dict[str, Any]:
    return {
        "filename": documents.artifact_file_name(artifact.url),
        "mountpoint": None if artifact.mount is None else ":".join(artifact.mount),
        "executable": artifact.executable,
        **_source(job, storage, artifact.url),
    }


def _source(job: Job, storage: documents.Storage | None, url: str) -> dict[str, Any]:
    if storage is not None and storage.default and documents.is_uploaded_artifact(url):
        # as in the directory of outputs, so that what one job of a workflow keeps there the next one finds
        named = documents.substitute(url, substitutions(job))
        return {"url": "", "sha256": None, "ours": False, "stored": documents.stored_path(storage, named)}
    if not documents.is_uploaded_artifact(url):
        return {"url": url, "sha256": None, "ours": False}
    try:
        key = place_of(url, job.owner, job.owner_groups).key
    except (BadKey, NotYourGroup):
        # It was looked for when the job was submitted; the node will say that it can't be had.
        return {"url": url, "sha256": None, "ours": False}
    signed = object_store().url_to_get(key, INPUT_LIFETIME_S, to_node=True)
    return {"url": signed, "sha256": _sha256(job, url), "ours": True}


def _sha256(job: Job, name: str) -> str | None:
    try:
        info = find_upload(name, job.owner, job.owner_groups)
    except StoreUnavailable:
        return None
    return None if info is None else info.sha256


def outputs(job: Job, parsed: documents.Job) -> dict[str, Any]:
    """Return what a node must know to store a job's outputs, as JSON values.

    No URLs: a node asks for each when it has the output at hand, so that none is ever too old.
    """
    wanted = stored.wanted(job)
    if parsed.storage is not None and parsed.storage.default:
        folder = documents.output_folder(parsed.storage.directory, substitutions(job))
        return {"outputs": wanted, "outputs_folder": folder, "outputs_on_storage": True}
    return {
        "outputs": wanted,
        "outputs_folder": scratch_folder(job.uid),
        "output_url": f"{settings().node_url}/data/output",
        "keep_s": settings().kept.directory_s,
    }


def place_of_output(uid: str, key: str) -> PutTarget:
    """Return a new URL for one of a job's outputs, ``uid`` naming the job's objects."""
    try:
        check_key(key)
    except BadKey as bad:
        raise ApiError(400, f"name: {bad}") from None
    if not key.startswith(scratch_folder(uid) + "/"):
        raise ApiError(400, "name: is not below the job's own folder")
    return object_store().url_to_put(key, RENEWED_OUTPUT_LIFETIME_S, to_node=True)


def stored_outputs(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return a job's outputs that are stored, by key in the object store or by path on its user's own storage."""
    found = []
    for row in stored.of_attempt(session, job):
        item = {"name": row.name, "kind": row.kind, "file": row.file, "size": row.size, "sha256": row.sha256}
        if stored.on_users_storage(job):
            folder = documents.output_folder(job.document["storage"].get("directory"), substitutions(job))
            found.append({**item, "path": posixpath.join(folder, row.file)})
        else:
            found.append({**item, "key": output_key(job.uid, row.file)})
    return found


def with_urls(view: dict[str, Any], job: Job) -> dict[str, Any]:
    """Complete a job's description: each output that is stored has a URL that is good for seven days.

    One on its user's own storage has its ``path`` there instead: nobody can fetch it without the user's account.
    """
    elsewhere = stored.on_users_storage(job)
    for key in stored.KINDS.values():
        for item in view.get(key, ()):
            file = item.pop("file", None)
            item["url"] = ""
            if file is not None and elsewhere:
                folder = documents.output_folder(job.document["storage"].get("directory"), substitutions(job))
                item["path"] = posixpath.join(folder, file)
            elif file is not None:
                item["url"] = object_store().url_to_get(output_key(job.uid, file), OUTPUT_GET_LIFETIME_S)
    return view
