"""From a workflow's document to its rows, its DAG and its run: all in one transaction, or nothing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow.models.crypto import get_fernet
from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api import mailer
from airflow_prominence.api.auth import Caller, check_again
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.gathering import check_gathered, with_uploads_only
from airflow_prominence.api.registries import check_connections
from airflow_prominence.api.settings import settings
from airflow_prominence.api.submission import Owner, check_key, once, owner_of, secrets_restored
from airflow_prominence.api.uploads import check_uploads
from airflow_prominence.dags.names import workflow_dag_id
from airflow_prominence.dags.plan import Plan, plan_of
from airflow_prominence.dags.submit import submit_run, write_workflow_dag
from airflow_prominence.store import letters
from airflow_prominence.store.phases import COMPLETED, DONE
from airflow_prominence.store.submission import NewJob, next_ids, row_of, submitted, workflow_secrets
from airflow_prominence.store.tables import Job, Workflow
from airflow_prominence.store.workflows import NewWorkflow, insert_jobs, insert_workflow, jobs_of

#: A job by its name in the workflow, and its number where a factory made it.
Key = tuple[str, int | None]


@dataclass(frozen=True)
class Prepared:
    """A checked document: what it means, what is written of it, and whose it is."""

    workflow: documents.Workflow
    new: NewWorkflow
    owner: Owner


def prepare(value: object, owner: Owner) -> Prepared:
    """Validate a document and take its secrets out, encrypted; raise DocumentError or ApiError with one sentence."""
    value = documents.as_submitted(value)
    workflow = documents.parse_workflow(value, settings().limits)
    if not isinstance(value, dict):
        raise AssertionError("a parsed document is an object")
    missing = documents.unsupported_workflow(workflow)
    if missing:
        raise ApiError(400, missing)
    with_uploads = {job.name for job in workflow.jobs if any(documents.uploads_of(job))}
    normalised = documents.normalise_workflow(value)
    check_gathered(workflow, normalised, owner.name, owner.groups)
    uploading = (expanded for expanded in documents.expand(workflow) if expanded.template.name in with_uploads)
    uploads = check_uploads(with_uploads_only(uploading, normalised), owner.name, owner.groups)
    check_connections(workflow.jobs, owner.name, owner.groups)
    if workflow.notifications or any(job.notifications for job in workflow.jobs):
        mailer.check_recipient(owner.email)
    redacted, secrets = documents.extract(normalised)
    fernet = get_fernet()
    new = NewWorkflow(
        owner=owner.name,
        groups=owner.groups,
        email=owner.email if letters.is_address(owner.email) else None,
        document=redacted,
        secrets={path: fernet.encrypt(secret.encode()) for path, secret in secrets.items()},
        in_queue=workflow.policies.leave_in_queue,
        uploads=uploads,
    )
    return Prepared(workflow, new, owner)


def submit(value: object, caller: Caller, key: str | None) -> int:
    """Make a workflow of a user, its DAG and its run; return its id. ``key`` as for jobs."""
    check_key(key)
    prepared = prepare(value, owner_of(caller))
    return once(value, caller, key, lambda session: _make(session, prepared, {}).id)


def launch(session: Session, value: object, owner: Owner, launcher: str) -> Workflow:
    """Make the workflow of a document that somebody has put into the trigger form of the shared DAG."""
    prepared = prepare(value, owner)
    return _make(session, replace(prepared, new=replace(prepared.new, launcher=launcher)), {})


def rerun(session: Session, old: Workflow, caller: Caller) -> int:
    """Make a workflow of what has failed or never run of another one; return its id.

    Jobs that ended well are kept: they count as done under the new id and show their output there.
    """
    check_again(session, caller)
    kept = {_key(job): job for job in jobs_of(session, old.id) if job.phase == DONE and job.node_success}
    prepared = prepare(original(session, old), owner_of(caller))
    prepared = replace(prepared, new=replace(prepared.new, rerun_of=old.id))
    return _make(session, prepared, kept).id


def original(session: Session, workflow: Workflow) -> dict[str, Any]:
    """Return the document that a workflow was made of, its secrets included; for its owner's next one only."""
    return secrets_restored(workflow.document, workflow_secrets(session, workflow.id))


def adopt(session: Session, prepared: Prepared, of: Workflow | None, dag_id: str, run_id: str) -> Workflow:
    """Make the workflow of a run that somebody has started in Airflow, of a DAG that is there already.

    ``of`` is the workflow that the DAG was made of, if one was: what a rerun has kept, its DAG has no tasks for.
    """
    jobs = [] if of is None else jobs_of(session, of.id)
    kept = {_key(job): job for job in jobs if job.kept_from is not None}
    ids = next_ids(session, 1 + _count(prepared.workflow))
    workflow = insert_workflow(session, ids[0], prepared.new, dag_id, run_id)
    _insert_jobs(session, prepared, workflow, _plan(prepared, kept), kept, ids[1:])
    return workflow


def _make(session: Session, prepared: Prepared, kept: Mapping[Key, Job]) -> Workflow:
    plan = _plan(prepared, kept)
    if not plan.groups:
        raise ApiError(400, "Workflow has no failed jobs to run again")
    ids = next_ids(session, 1 + _count(prepared.workflow))
    dag_id = workflow_dag_id(ids[0], prepared.workflow.name)
    run_id = f"workflow-{ids[0]}"
    workflow = insert_workflow(session, ids[0], prepared.new, dag_id, run_id)
    _insert_jobs(session, prepared, workflow, plan, kept, ids[1:])
    write_workflow_dag(
        session,
        plan,
        dag_id=dag_id,
        owner=prepared.owner.name,
        title=prepared.workflow.name or f"Workflow {workflow.id}",
        labels=prepared.workflow.labels,
        code=json.dumps(prepared.new.document, indent=2, ensure_ascii=False),
    )
    submit_run(session, dag_id=dag_id, run_id=run_id, conf={"workflow_id": workflow.id}, owner=prepared.owner.name)
    return workflow


def _count(workflow: documents.Workflow) -> int:
    return sum(1 if made is None else made for made in documents.jobs_of_members(workflow).values())


def _plan(prepared: Prepared, kept: Mapping[Key, Job]) -> Plan:
    if not kept:
        return plan_of(prepared.workflow)
    made = documents.jobs_of_members(prepared.workflow)
    counts = {member: 1 if count is None else count for member, count in made.items()}
    for member, _ in kept:
        counts[member] -= 1
    return plan_of(prepared.workflow, counts)


def _insert_jobs(
    session: Session, prepared: Prepared, workflow: Workflow, plan: Plan, kept: Mapping[Key, Job], ids: list[int]
) -> None:
    rows = _rows(prepared, workflow, plan, kept, iter(ids).__next__)
    insert_jobs(session, rows, submitted(_new_job(prepared, 0), ""))


def _rows(
    prepared: Prepared, workflow: Workflow, plan: Plan, kept: Mapping[Key, Job], next_id: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    now = time.time()
    index_of = {job.name: index for index, job in enumerate(prepared.workflow.jobs)}
    member, base, slot = "", {}, 0
    for expanded in documents.expand(prepared.workflow):
        if expanded.template.name != member:
            # All jobs of a factory have in common what is not made of their parameters.
            member, slot = expanded.template.name, 0
            index = index_of[member]
            template = row_of(0, _new_job(prepared, index), workflow.dag_id, workflow.run_id, now)
            base = template | {"workflow_id": workflow.id, "member": member, "in_queue": False}
        row = base | {
            "id": next_id(),
            "name": expanded.name,
            "instance": expanded.index,
            "parameters": dict(expanded.parameters) or None,
            "uid": uuid.uuid4().hex,
        }
        before = kept.get((member, expanded.index))
        if before is not None:
            yield row | _kept(before)
            continue
        group = plan.group_of(member)
        document = documents.expanded_document(base["document"], expanded)
        row |= {"document": document, "tasks": document["tasks"], "group_id": group.id}
        if group.parents:
            row |= {"wants_capacity": False, "queue_until": None}
        if expanded.index is not None:
            row["slot"], slot = slot, slot + 1
        yield row


def _kept(job: Job) -> dict[str, Any]:
    """The values of a job that a rerun keeps: its own end, under a new id."""
    return {
        "document": job.document,
        "tasks": job.tasks,
        # No task drives it; beside the id that the job itself has, none is like it.
        "group_id": f"kept.{job.id}",
        "phase": DONE,
        "status": COMPLETED,
        "node_success": True,
        "execution": job.execution,
        "attempt": job.attempt,
        "wants_capacity": False,
        "queue_until": None,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "released_at": job.released_at or job.ended_at,
        "kept_from": job.kept_from or job.id,
        "site": (job.execution or {}).get("site"),
    }


def _new_job(prepared: Prepared, index: int) -> NewJob:
    """What the jobs of one template have in common."""
    job, document = prepared.workflow.jobs[index], prepared.new.document["jobs"][index]
    return NewJob(
        owner=prepared.owner.name,
        groups=prepared.owner.groups,
        email=prepared.new.email,
        document=_with_policies(document, job, prepared.workflow.policies),
        secrets={},
        nodes=job.resources.nodes,
        cpus=job.resources.cpus,
        memory_mb=job.resources.memory_mb(),
        disk_mb=job.resources.disk_mb,
        walltime_s=job.resources.walltime_s,
        max_attempts=job.policies.max_attempts,
        priority=job.policies.priority,
        max_queue_min=job.policies.maximum_time_in_queue,
        by_job=prepared.owner.by_job,
    )


def _with_policies(
    document: dict[str, Any], job: documents.Job, of_workflow: documents.WorkflowPolicies
) -> dict[str, Any]:
    """The job's document with what it inherits, so that its description says what is done."""
    inherited: dict[str, Any] = {}
    if of_workflow.maximum_retries is not None:
        inherited["maximumRetries"] = job.policies.maximum_retries
    if not inherited:
        return document
    return document | {"policies": document.get("policies", {}) | inherited}


def _key(job: Job) -> Key:
    return job.member or "", job.instance
