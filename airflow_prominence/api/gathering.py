"""Outputs of a workflow's jobs as artifacts of those that depend on them: checked when submitted, found for a node."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api.uploads import find_upload
from airflow_prominence.documents.factories import value_text
from airflow_prominence.objects import INPUT_LIFETIME_S, object_store, output_key
from airflow_prominence.store import gathering as stored
from airflow_prominence.store.tables import Job, Workflow


def check_gathered(
    workflow: documents.Workflow, document: Mapping[str, Any], owner: str, groups: Sequence[str]
) -> None:
    """Refuse what a workflow's jobs take of each other and can't have; an upload of a group's is no such thing.

    ``document`` is the workflow's normalised document. Raises DocumentError.
    """
    for stranger in documents.strangers(workflow, document):
        if find_upload(stranger.url, owner, groups) is None:
            raise stranger.fault


def with_uploads_only(jobs: Iterable[documents.ExpandedJob], document: Mapping[str, Any]) -> Iterator[documents.Job]:
    """Yield the jobs without the artifacts that are outputs of others."""
    family = documents.Family(document)
    for expanded in jobs:
        job, child = expanded.job, expanded.template.name
        kept = tuple(artifact for artifact in job.artifacts if family.gathered(artifact.url, child) is None)
        yield job if len(kept) == len(job.artifacts) else replace(job, artifacts=kept)


def family_of(session: Session, job: Job, parsed: documents.Job) -> documents.Family | None:
    """Return the jobs beside this one if it may have outputs of theirs as artifacts."""
    if job.workflow_id is None or job.member is None:
        return None
    if not any("/" in artifact.url and documents.is_uploaded_artifact(artifact.url) for artifact in parsed.artifacts):
        return None
    return documents.Family(session.get_one(Workflow, job.workflow_id).document)


def entries(
    session: Session, job: Job, family: documents.Family, gathered: documents.Gathered, artifact: documents.Artifact
) -> list[dict[str, Any]]:
    """Return the files that an artifact means, each with a URL, as JSON values; one that is missing says so.

    One job's come into the job's own directory, those of a factory's jobs into ``<job>/<number>`` below it.
    """
    found: list[dict[str, Any]] = []
    for source in stored.sources(session, job.workflow_id, gathered.member, gathered.instance):
        texts = {name: value_text(value) for name, value in source.parameters.items()}
        file, wanted = family.meant(gathered, texts)
        if not wanted:
            continue
        place = {"folder": f"{gathered.member}/{source.instance}" if gathered.is_of_all else None}
        outputs = [output for output in source.outputs if _is_meant(output, file, wanted)]
        found += [place | _entry(source.uid, output) for output in outputs]
        if not outputs:
            found.append(place | _missing(gathered, source.instance, file))
    if not found:
        found.append({"folder": None} | _missing(gathered, gathered.instance, gathered.file))
    for number, entry in enumerate(found):
        # What is mounted is a folder; it is mounted once, whatever is brought into it.
        mounted = artifact.mount is not None and number == 0
        entry["mountpoint"] = ":".join(artifact.mount or ()) if mounted else None
        entry["executable"] = artifact.executable
    return found


def _is_meant(output: stored.Output, file: str, wanted: list[documents.Asked]) -> bool:
    for asked in wanted:
        if asked.kind != output.kind or (output.name != asked.name and output.asked != asked.name):
            continue
        if file in asked.names or file in (output.file, output.name):
            return True
    return False


def _entry(uid: str, output: stored.Output) -> dict[str, Any]:
    url = object_store().url_to_get(output_key(uid, output.file), INPUT_LIFETIME_S, to_node=True)
    return {"filename": output.file, "url": url, "sha256": output.sha256, "ours": True, "missing": None}


def _missing(gathered: documents.Gathered, instance: int | None, file: str) -> dict[str, Any]:
    job = gathered.member if instance is None else f"{gathered.member}/{instance}"
    name = posixpath.basename(file.rstrip("/")) or "artifact"
    why = f"{job} has left no such output, or it is no longer kept"
    return {"filename": name, "url": "", "sha256": None, "ours": False, "missing": why}
