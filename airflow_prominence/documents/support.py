"""What is valid but not built yet. This is the one list: an entry goes when its feature comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from airflow_prominence.documents.errors import quoted
from airflow_prominence.documents.model import Job, Placement, Task, Workflow

_NOT_YET = "is not supported yet"

JOB_GAPS: Final[tuple[tuple[str, Callable[[Job], object]], ...]] = (
    ("resources.nodes", lambda job: job.resources.nodes > 1 and not job.resources.total_cpus_range),
    ("resources.totalCpusRange", lambda job: job.resources.total_cpus_range),
    ("policies.placement", lambda job: job.policies.placement not in (None, Placement())),
    ("policies.autoScalingType", lambda job: job.policies.auto_scaling_type),
)
"""Keys of a job, each with what in the job makes use of it. A value that asks for nothing is no use."""

TASK_GAPS: Final[tuple[tuple[str, Callable[[Task], object]], ...]] = (
    ("procsPerNode", lambda task: task.procs_per_node),
)

SUPPORTED_TASK_TYPES: Final = frozenset({"basic", "sidecar"})


WORKFLOW_GAPS: Final[tuple[tuple[str, Callable[[Workflow], object]], ...]] = (
    ("policies.placement", lambda workflow: workflow.policies.placement not in (None, Placement())),
    ("policies.maximumReruns", lambda workflow: workflow.policies.maximum_reruns),
)
"""Keys of a workflow, each with what in the workflow makes use of it."""


def unsupported_workflow(workflow: Workflow) -> str | None:
    """A sentence about the first thing in the workflow or its jobs that is not built yet, or None."""
    for key, used in WORKFLOW_GAPS:
        if used(workflow):
            return f"{key}: {_NOT_YET}"
    for index, job in enumerate(workflow.jobs):
        missing = unsupported(job)
        if missing:
            return f"jobs[{index}].{missing}"
    return None


def unsupported(job: Job) -> str | None:
    """A sentence about the first thing in the job that is not built yet, or None."""
    for key, used in JOB_GAPS:
        if used(job):
            if key == "resources.nodes":
                return f"{key}: more than one node {_NOT_YET}"
            return f"{key}: {_NOT_YET}"
    for index, task in enumerate(job.tasks):
        if task.type not in SUPPORTED_TASK_TYPES:
            return f"tasks[{index}].type: {quoted(task.type)} {_NOT_YET}"
        for key, wanted in TASK_GAPS:
            if wanted(task):
                return f"tasks[{index}].{key}: {_NOT_YET}"
    return None
