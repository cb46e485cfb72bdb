"""Which of a document's names are those of uploaded objects (``prominence.md`` 4)."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_prominence.documents.model import Job

_IMAGE_FILES = (".sif", ".simg", ".tar", ".tgz")


def is_uploaded_image(image: str) -> bool:
    """Tell whether a task's image is an upload: the name of a file, neither by URL nor on attached storage."""
    return image.endswith(_IMAGE_FILES) and "://" not in image and not image.startswith("/")


def is_uploaded_artifact(url: str) -> bool:
    """Tell whether an artifact is an upload and no URL."""
    return "://" not in url


def uploads_of(job: Job) -> Iterator[tuple[str, str]]:
    """Yield ``("Image" or "Artifact", name)`` of every upload that the job needs, in the document's order.

    With storage that takes the object store's place (``default``) nothing is an upload.
    """
    if job.storage is not None and job.storage.default:
        return
    for task in job.tasks:
        if is_uploaded_image(task.image):
            yield "Image", task.image
    for artifact in job.artifacts:
        if is_uploaded_artifact(artifact.url):
            yield "Artifact", artifact.url
