"""What a node is given to run: a lease's job with its secrets in place and its own token (the agent protocol)."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from airflow_prominence import documents, tokens
from airflow_prominence.api import images, staging
from airflow_prominence.api.settings import settings
from airflow_prominence.api.submission import secrets_restored
from airflow_prominence.store.submission import secrets_of
from airflow_prominence.store.tables import Job, Lease, Node

#: A job's token outlives its walltime by this: for staging, and for reports spooled during an outage (seconds).
_AFTER_WALLTIME_S = 24 * 3600 + 2 * 3600
#: One that holds until tasks in Airflow let it go on may wait for a person (seconds).
_LONGEST_HOLD_S = 30 * 24 * 3600


def assignment(session: Session, lease: Lease) -> dict[str, Any]:
    """Return the assignment of a lease, as JSON values."""
    job = session.get_one(Job, lease.job_id)
    document = secrets_restored(job.document, secrets_of(session, job))
    parsed = documents.parse_job(document, settings().limits)
    substitutions = staging.substitutions(job)
    return {
        "lease": lease.id,
        "job": job.id,
        "workflow": job.workflow_id,
        "attempt": lease.attempt,
        "owner": job.owner,
        "name": job.name,
        "nodes": job.nodes,
        "node_num": lease.node_num,
        "token": _token(job, lease, {"lease": lease.id}),
        "job_token": _token(job, lease, {}),
        "report_url": f"{settings().internal_url}/leases/{lease.id}",
        "public_url": settings().node_url,
        "resources": {
            "cpus": lease.cpus,
            "memory_mb": lease.memory_mb,
            "disk_mb": lease.disk_mb,
            "walltime_s": job.walltime_s,
        },
        "addresses": _addresses(session.get_one(Node, lease.node_id).site),
        "inputs": [
            {"filename": item.filename, "content": item.content, "executable": item.executable}
            for item in parsed.inputs
        ],
        "artifacts": staging.artifacts(session, job, parsed),
        "storage": _storage(parsed.storage),
        **(staging.outputs(job, parsed) if lease.node_num == 0 else {}),
        "tasks": [_task(job, parsed, task, substitutions) for task in parsed.tasks],
        "holds": job.allowed is not None,
        "task_retries": parsed.policies.maximum_task_retries,
        "ignore_task_failures": parsed.policies.ignore_task_failures,
        "env": _environment(job, lease),
    }


def _task(job: Job, parsed: documents.Job, task: documents.Task, substitutions: dict[str, str]) -> dict[str, Any]:
    argv = documents.task_argv(task, substitutions)
    return {
        "image": task.image,
        "runtime": task.runtime,
        "argv": None if argv is None else list(argv),
        "env": dict(task.env),
        "workdir": documents.task_workdir(task, substitutions),
        "type": task.type,
        "app": task.app,
        "stdout": task.stdout,
        "mpi": None,
        **images.source(job, parsed, task),
    }


def _storage(storage: documents.Storage | None) -> dict[str, Any] | None:
    """A job's storage with its account, and with the server's address where the document has none."""
    if storage is None:
        return None
    server = {"url": settings().b2drop_url} if storage.type == "b2drop" else {}
    return {"type": storage.type, "mountpoint": storage.mountpoint, storage.type: {**storage.options, **server}}


def _addresses(site: str) -> dict[str, bool]:
    """Return where artifacts, images and storage of jobs at this site may be, beside public addresses."""
    return {
        "private": site in settings().private_network_sites,
        "loopback": site in settings().loopback_sites,
    }


def _environment(job: Job, lease: Lease) -> dict[str, str]:
    return {
        **documents.parameters_env(job.parameters or {}),
        **staging.substitutions(job),
        "PROMINENCE_CPUS": str(lease.cpus),
        "PROMINENCE_MEMORY": f"{lease.memory_mb / 1024:g}",
        "PROMINENCE_NODES": str(job.nodes),
        "PROMINENCE_NODE_NUM": str(lease.node_num),
        "PROMINENCE_URL": settings().node_url,
    }


def _token(job: Job, lease: Lease, runner: dict[str, Any]) -> str:
    """A job's token; only its runner's names the lease, so that what users run cannot report in the runner's name."""
    claims = {"sub": job.owner, "groups": list(job.owner_groups), "job": job.id, "attempt": lease.attempt, **runner}
    holds_s = 0 if job.allowed is None else _LONGEST_HOLD_S
    return tokens.mint(tokens.JOB, claims, job.walltime_s + holds_s + _AFTER_WALLTIME_S, settings().secret)
