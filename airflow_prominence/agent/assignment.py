"""An assignment as the API hands it out, checked once and then frozen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple


class BadAssignment(ValueError):
    """One sentence that names the field."""


@dataclass(frozen=True)
class Input:
    filename: str
    content: str
    executable: bool


@dataclass(frozen=True)
class Credential:
    username: str
    token: str


@dataclass(frozen=True)
class Task:
    image: str
    runtime: str
    argv: Optional[Tuple[str, ...]]
    env: Mapping[str, str]
    workdir: Optional[str]
    type: str
    credential: Optional[Credential]


@dataclass(frozen=True)
class Resources:
    cpus: int
    memory_mb: int
    disk_mb: int
    walltime_s: float


@dataclass(frozen=True)
class Assignment:
    lease: str
    job: int
    attempt: int
    nodes: int
    token: str
    report_url: str
    resources: Resources
    inputs: Tuple[Input, ...]
    tasks: Tuple[Task, ...]
    task_retries: int
    ignore_task_failures: bool
    env: Mapping[str, str]


def _get(where: str, raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadAssignment("{}{}: must be of type {}".format(where, key, kind.__name__))
    return value


def _strings(where: str, raw: Any) -> Dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in raw.items()):
        raise BadAssignment("{}: must map strings to strings".format(where))
    for key, value in raw.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise BadAssignment("{}.{}: can't be in an environment".format(where, key))
    return dict(raw)


def _task(index: int, raw: Any) -> Task:
    where = "tasks[{}].".format(index)
    if not isinstance(raw, dict):
        raise BadAssignment("tasks[{}]: must be an object".format(index))
    argv = raw.get("argv")
    if argv is not None:
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) and "\0" not in a for a in argv):
            raise BadAssignment("{}argv: must be null or a list of strings".format(where))
    credential = raw.get("credential")
    if credential is not None:
        credential = Credential(
            _get(where + "credential.", credential, "username", str), _get(where + "credential.", credential, "token", str)
        )
    workdir = raw.get("workdir")
    if workdir is not None and (not isinstance(workdir, str) or "\0" in workdir):
        raise BadAssignment("{}workdir: must be null or a path".format(where))
    kind = raw.get("type", "basic")
    if kind != "basic":
        raise BadAssignment("{}type: {!r} is not supported by this agent".format(where, kind))
    return Task(
        image=_get(where, raw, "image", str),
        runtime=_get(where, raw, "runtime", str),
        argv=None if argv is None else tuple(argv),
        env=_strings(where + "env", raw.get("env") or {}),
        workdir=workdir,
        type=kind,
        credential=credential,
    )


def parse(text: str) -> Assignment:
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise BadAssignment("assignment: must be an object")
    limits = _get("", raw, "resources", dict)
    walltime = limits.get("walltime_s")
    if not isinstance(walltime, (int, float)) or walltime <= 0:
        raise BadAssignment("resources.walltime_s: must be positive")
    inputs: List[Input] = []
    for index, item in enumerate(raw.get("inputs") or []):
        where = "inputs[{}].".format(index)
        inputs.append(
            Input(_get(where, item, "filename", str), _get(where, item, "content", str), bool(item.get("executable")))
        )
    return Assignment(
        lease=_get("", raw, "lease", str),
        job=_get("", raw, "job", int),
        attempt=_get("", raw, "attempt", int),
        nodes=int(raw.get("nodes") or 1),
        token=_get("", raw, "token", str),
        report_url=_get("", raw, "report_url", str).rstrip("/"),
        resources=Resources(
            cpus=_get("resources.", limits, "cpus", int),
            memory_mb=_get("resources.", limits, "memory_mb", int),
            disk_mb=_get("resources.", limits, "disk_mb", int),
            walltime_s=float(walltime),
        ),
        inputs=tuple(inputs),
        tasks=tuple(_task(index, item) for index, item in enumerate(_get("", raw, "tasks", list))),
        task_retries=int(raw.get("task_retries") or 0),
        ignore_task_failures=bool(raw.get("ignore_task_failures")),
        env=_strings("env", raw.get("env") or {}),
    )
