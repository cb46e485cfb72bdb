"""Jobs: from a submitted value to a Job."""

from __future__ import annotations

import math
from typing import Any

from airflow_prominence.documents.errors import DocumentError, path_of
from airflow_prominence.documents.files import artifacts_of, check_outputs, inputs_of
from airflow_prominence.documents.limits import DEFAULT_LIMITS, Limits
from airflow_prominence.documents.loading import check_values
from airflow_prominence.documents.model import Job, Notification, Placement, Policies, Resources
from airflow_prominence.documents.schemas import check_schema
from airflow_prominence.documents.storage import check_beside, check_images, check_outputs_there, storage_of
from airflow_prominence.documents.tasks import task_of

Path = tuple[str | int, ...]

_RANGES = ("cpusRange", "cpusOptions", "totalCpusRange")


def parse_job(value: object, limits: Limits = DEFAULT_LIMITS) -> Job:
    """Check a job document and fill in its defaults, or raise DocumentError."""
    check_values(value)
    check_schema("job", value)
    assert isinstance(value, dict)
    return job_of(value, (), limits)


def job_of(doc: dict[str, Any], path: Path, limits: Limits) -> Job:
    """Build a job from a document, or its part of a workflow's, that has passed the schema."""
    resources = resources_of(doc["resources"], (*path, "resources"), limits)
    tasks = tuple(task_of(task, (*path, "tasks", index), resources) for index, task in enumerate(doc["tasks"]))
    if all(task.type == "sidecar" for task in tasks):
        raise DocumentError(path_of((*path, "tasks")), "must hold a task that is not a sidecar")
    files, directories = doc.get("outputFiles", []), doc.get("outputDirs", [])
    check_outputs(files, directories, path)
    storage = storage_of(doc["storage"], (*path, "storage")) if "storage" in doc else None
    stored = storage is not None and storage.default
    artifacts = artifacts_of(doc.get("artifacts", []), (*path, "artifacts"), stored=stored)
    check_beside(storage, artifacts, path)
    check_images(storage, tasks, path)
    check_outputs_there(storage, bool(files or directories), path)
    return Job(
        name=doc.get("name", ""),
        resources=resources,
        tasks=tasks,
        labels=dict(doc.get("labels", {})),
        inputs=inputs_of(doc.get("inputs", []), (*path, "inputs"), limits),
        artifacts=artifacts,
        output_files=tuple(files),
        output_dirs=tuple(directories),
        storage=storage,
        policies=policies_of(doc.get("policies", {})),
        notifications=notifications_of(doc.get("notifications", [])),
    )


def resources_of(doc: dict[str, Any], path: Path, limits: Limits) -> Resources:
    pairs: dict[str, tuple[int, int]] = {}
    for key in _RANGES:
        if key in doc:
            pairs[key] = int(doc[key][0]), int(doc[key][1])
            if pairs[key][0] > pairs[key][1] and key != "cpusOptions":
                raise DocumentError(path_of((*path, key)), "must give the smaller number first")
    for key, number, most in (
        ("nodes", doc.get("nodes", 1), limits.max_nodes),
        ("cpus", doc.get("cpus", 1), limits.max_cpus),
        ("cpusRange", max(pairs.get("cpusRange", (1,))), limits.max_cpus),
        ("cpusOptions", max(pairs.get("cpusOptions", (1,))), limits.max_cpus),
        ("totalCpusRange", max(pairs.get("totalCpusRange", (1,))), limits.max_cpus * limits.max_nodes),
        ("memory", doc.get("memory", 1), limits.max_memory_gb),
        ("memoryPerCpu", doc.get("memoryPerCpu", 1), limits.max_memory_gb),
        ("disk", doc.get("disk", 1), limits.max_disk_gb),
        ("walltime", doc.get("walltime", 1), limits.max_walltime_minutes),
    ):
        if number > most:
            raise DocumentError(path_of((*path, key)), f"must be at most {most}")
    choice = pairs.get("cpusRange") or pairs.get("cpusOptions") or (int(doc.get("cpus", 1)),)
    if "memoryPerCpu" in doc and doc["memoryPerCpu"] * max(choice) > limits.max_memory_gb:
        raise DocumentError(path_of((*path, "memoryPerCpu")), f"makes more than {limits.max_memory_gb} GB per node")
    return Resources(
        cpus=min(choice),
        nodes=_nodes(doc, pairs, max(choice), path, limits),
        disk=int(doc.get("disk", 10)),
        walltime=int(doc.get("walltime", min(720, limits.max_walltime_minutes))),
        memory=doc.get("memory"),
        memory_per_cpu=doc.get("memoryPerCpu"),
        cpus_range=pairs.get("cpusRange"),
        cpus_options=pairs.get("cpusOptions"),
        total_cpus_range=pairs.get("totalCpusRange"),
    )


def _nodes(doc: dict[str, Any], pairs: dict[str, tuple[int, int]], cpus: int, path: Path, limits: Limits) -> int:
    nodes = int(doc.get("nodes", 1))
    if "totalCpusRange" not in pairs:
        return nodes
    # The released client's library sends its default of one node beside a range
    if nodes > 1:
        raise DocumentError(path_of((*path, "nodes")), "cannot be given together with totalCpusRange")
    nodes = math.ceil(pairs["totalCpusRange"][1] / cpus)
    if nodes > limits.max_nodes:
        sentence = f"needs {nodes} nodes, and at most {limits.max_nodes} are allowed"
        raise DocumentError(path_of((*path, "totalCpusRange")), sentence)
    return nodes


def policies_of(doc: dict[str, Any]) -> Policies:
    scaling = doc.get("autoScalingType")
    return Policies(
        maximum_retries=int(doc.get("maximumRetries", 0)),
        maximum_task_retries=int(doc.get("maximumTaskRetries", 0)),
        maximum_time_in_queue=int(doc.get("maximumTimeInQueue", 0)),
        maximum_idle_time_per_resource=int(doc.get("maximumIdleTimePerResource", 0)),
        leave_in_queue=doc.get("leaveInQueue", False),
        placement=placement_of(doc.get("placement")),
        priority=int(doc.get("priority", 0)),
        auto_scaling_type=None if scaling == "none" else scaling,
        preemptible=doc.get("preemptible", False),
        ignore_task_failures=doc.get("ignoreTaskFailures", doc.get("ignoreTaskTailures", False)),
        report_job_success_on_task_failure=doc.get("reportJobSuccessOnTaskFailure", False),
        run_serial_tasks_on_all_nodes=doc.get("runSerialTasksOnAllNodes", False),
    )


def placement_of(doc: dict[str, Any] | None) -> Placement | None:
    if doc is None:
        return None
    requirements, preferences = doc.get("requirements", {}), doc.get("preferences", {})
    return Placement(
        required_sites=tuple(requirements.get("sites", ())),
        required_regions=tuple(requirements.get("regions", ())),
        preferred_sites=tuple(preferences.get("sites", ())),
        preferred_regions=tuple(preferences.get("regions", ())),
    )


def notifications_of(docs: list[dict[str, str]]) -> tuple[Notification, ...]:
    return tuple(Notification(doc["event"], doc["type"]) for doc in docs)
