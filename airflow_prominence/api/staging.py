"""What a node fetches for a job before it runs and stores of it afterwards: the assignment's artifacts."""

from __future__ import annotations

from typing import Any

from airflow_prominence import documents
from airflow_prominence.api.uploads import find_upload
from airflow_prominence.objects import INPUT_LIFETIME_S, BadKey, StoreUnavailable, object_store
from airflow_prominence.objects.keys import NotYourGroup, place_of
from airflow_prominence.store.tables import Job


def artifacts(job: Job, parsed: documents.Job) -> list[dict[str, Any]]:
    """Return a job's artifacts with a URL each, as JSON values."""
    return [
        {
            "filename": documents.artifact_file_name(artifact.url),
            "mountpoint": None if artifact.mount is None else ":".join(artifact.mount),
            "executable": artifact.executable,
            **_source(job, artifact.url),
        }
        for artifact in parsed.artifacts
    ]


def _source(job: Job, url: str) -> dict[str, Any]:
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
