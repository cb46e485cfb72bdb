"""From a document to a queued job with its run in Airflow: validated, then all in one transaction or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow.models.crypto import get_fernet
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api import mailer
from airflow_prominence.api.auth import Caller, check_again
from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.registries import check_connections
from airflow_prominence.api.settings import settings
from airflow_prominence.api.uploads import check_uploads
from airflow_prominence.dags.names import JOB_DAG_ID, run_id_for
from airflow_prominence.dags.submit import submit_run
from airflow_prominence.store import letters
from airflow_prominence.store.submission import KeyReused, NewJob, insert_job, job_of_key, next_id, remember_key
from airflow_prominence.store.tables import Job

_KEY_LENGTH = 250


@dataclass(frozen=True)
class Owner:
    """Whose a new job is, and which job of the same owner submits it, if one does."""

    name: str
    groups: tuple[str, ...] = ()
    email: str | None = None
    by_job: int | None = None


def check(value: object) -> tuple[documents.Job, dict[str, Any]]:
    """Return a document parsed and normalised; raise ``DocumentError`` with one sentence if it is refused."""
    job = documents.parse_job(value, settings().limits)
    missing = documents.unsupported(job)
    if missing:
        raise ApiError(400, missing)
    if not isinstance(value, dict):
        raise AssertionError("a parsed document is an object")
    return job, documents.normalise(value)


def prepare(value: object, owner: Owner) -> NewJob:
    """Validate a document and take its secrets out, encrypted."""
    job, document = check(documents.as_submitted(value))
    uploads = check_uploads([job], owner.name, owner.groups)
    check_connections([job], owner.name, owner.groups)
    if job.notifications:
        mailer.check_recipient(owner.email)
    redacted, secrets = documents.extract(document)
    fernet = get_fernet()
    return NewJob(
        owner=owner.name,
        groups=owner.groups,
        email=owner.email if letters.is_address(owner.email) else None,
        document=redacted,
        secrets={path: fernet.encrypt(secret.encode()) for path, secret in secrets.items()},
        nodes=job.resources.nodes,
        cpus=job.resources.cpus,
        memory_mb=job.resources.memory_mb(),
        disk_mb=job.resources.disk_mb,
        walltime_s=job.resources.walltime_s,
        max_attempts=job.policies.max_attempts,
        priority=job.policies.priority,
        max_queue_min=job.policies.maximum_time_in_queue,
        by_job=owner.by_job,
        uploads=uploads,
    )


def submit(value: object, caller: Caller, key: str | None, parameters: dict[str, Any] | None = None) -> int:
    """Make a job of a user and queue its run; return its id.

    With an Idempotency-Key the same document gives the same id again, another document raises 409. ``parameters`` are
    those of the factory that made the job, if this is a clone of such a one.
    """
    check_key(key)
    new = replace(prepare(value, owner_of(caller)), parameters=parameters)

    def work(session: Session) -> int:
        job_id = next_id(session)
        run_id = run_id_for(job_id, new.document.get("name", ""))
        insert_job(session, job_id, new, JOB_DAG_ID, run_id)
        submit_run(session, dag_id=JOB_DAG_ID, run_id=run_id, conf={"job_id": job_id}, owner=caller.name)
        return job_id

    return once(value, caller, key, work)


def owner_of(caller: Caller) -> Owner:
    """Return whose a submission is; refuse Airflow users whose role does not let them start runs."""
    caller.require_act()
    return Owner(caller.name, caller.groups, caller.email, caller.only_job)


def check_key(key: str | None) -> None:
    """Refuse an Idempotency-Key that could not be remembered."""
    if key is not None and not 0 < len(key) <= _KEY_LENGTH:
        raise ApiError(400, f"Idempotency-Key: must have 1 to {_KEY_LENGTH} characters")


def once(value: object, caller: Caller, key: str | None, make: Callable[[Session], int]) -> int:
    """Make something in one transaction and return its id; with an Idempotency-Key only once."""
    digest = "" if key is None else hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    def work(session: Session) -> int:
        check_again(session, caller)
        if key is None:
            return make(session)
        known = job_of_key(session, caller.name, key, digest)
        if known is not None:
            return known
        made = make(session)
        remember_key(session, caller.name, key, digest, made)
        return made

    try:
        return _once_more_for_twins(work)
    except KeyReused:
        raise ApiError(409, f"Idempotency-Key: {key} was used before with another document") from None


def _once_more_for_twins(work: Callable[[Session], int]) -> int:
    try:
        return transact(work)
    except IntegrityError:
        # Two requests with one new key at the same moment: the loser finds the winner's job now.
        return transact(work)


def adopt_run(session: Session, dag_id: str, run_id: str, value: object, owner: Owner) -> Job:
    """Make the job of a run that was started in Airflow with a document in its conf."""
    new = prepare(value, owner)
    return insert_job(session, next_id(session), new, dag_id, run_id)


def secrets_restored(document: Mapping[str, Any], secrets: Mapping[str, bytes]) -> dict[str, Any]:
    """Return a stored document with its secrets in place again; for that job's agent only."""
    fernet = get_fernet()
    plain = {path: fernet.decrypt(ciphertext).decode() for path, ciphertext in secrets.items()}
    restored: dict[str, Any] = documents.restore(document, plain)
    return restored
