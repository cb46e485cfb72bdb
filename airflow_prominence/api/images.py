"""Where a node gets the image of a task: the assignment's ``image_url``, ``sha256``, ``credential`` and refusal."""

from __future__ import annotations

from typing import Any

from airflow_prominence import documents
from airflow_prominence.api import registries
from airflow_prominence.objects import INPUT_LIFETIME_S, BadKey, StoreUnavailable, object_store
from airflow_prominence.objects.keys import NotYourGroup, place_of
from airflow_prominence.store.tables import Job


def source(job: Job, parsed: documents.Job, task: documents.Task) -> dict[str, Any]:
    """Return what a node is told of a task's image beside its name, as JSON values."""
    found: dict[str, Any] = {"image_url": None, "image_refusal": None, "sha256": task.image_sha256, "credential": None}
    credential = task.credential
    if task.connection is not None:
        try:
            credential = registries.credential(task.connection, task.image, job.owner, job.owner_groups)
        except registries.NoCredential as error:
            # Without it another image may be what everybody can pull by this name.
            found["image_refusal"] = f"image: imagePullCredential: {error}"
    if credential is not None:
        found["credential"] = {"username": credential.username, "token": credential.token}
    storage = parsed.storage
    by_name = documents.is_uploaded_image(task.image) or task.image.startswith("/")
    if storage is not None and storage.default and by_name:
        found["image"] = documents.stored_path(storage, task.image)
    if ("Image", task.image) in documents.uploads_of(parsed):
        found.update(_upload(job, task))
    return found


def _upload(job: Job, task: documents.Task) -> dict[str, Any]:
    gone = {"image_refusal": f"image: {task.image} does not exist any more among the uploads"}
    try:
        key = place_of(task.image, job.owner, job.owner_groups).key
    except (BadKey, NotYourGroup):
        return gone
    try:
        found = object_store().stat(key)
    except StoreUnavailable:
        # The node is patient, and it may be back by then.
        return {"image_url": _signed(key)}
    if found is None:
        return gone
    return {"image_url": _signed(key), "sha256": task.image_sha256 or found.sha256}


def _signed(key: str) -> str:
    return object_store().url_to_get(key, INPUT_LIFETIME_S, to_node=True)
