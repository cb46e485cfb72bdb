"""What a valid document says, as values: defaults filled in, aliases gone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

MPI_TYPES = frozenset({"openmpi", "mpich", "intelmpi"})
MB_PER_GB = 1024


@dataclass(frozen=True, slots=True)
class Resources:
    """Of each node. ``cpus`` is the fewest cores that will do: the plain number, or the ranges' lower end."""

    cpus: int
    nodes: int
    disk: int
    walltime: int
    memory: float | None = None
    memory_per_cpu: float | None = None
    cpus_range: tuple[int, int] | None = None
    cpus_options: tuple[int, int] | None = None
    total_cpus_range: tuple[int, int] | None = None

    @property
    def max_cpus(self) -> int:
        """The most cores per node the document asks for."""
        return max(self.cpus_range or self.cpus_options or (self.cpus,))

    @property
    def walltime_s(self) -> int:
        return self.walltime * 60

    @property
    def disk_mb(self) -> int:
        return self.disk * MB_PER_GB

    def memory_mb(self, cpus: int | None = None) -> int:
        """Memory of a node that has ``cpus`` cores (the fewest that will do where not given)."""
        if self.memory is not None:
            return math.ceil(self.memory * MB_PER_GB)
        return math.ceil((self.memory_per_cpu or 0) * (self.cpus if cpus is None else cpus) * MB_PER_GB)


@dataclass(frozen=True, slots=True)
class Credential:
    username: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    image: str
    runtime: str
    cmd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    type: str = "basic"
    procs_per_node: int | None = None
    credential: Credential | None = None
    connection: str | None = None
    image_sha256: str | None = None
    app: str | None = None
    stdout: str | None = None

    @property
    def is_mpi(self) -> bool:
        return self.type in MPI_TYPES


@dataclass(frozen=True, slots=True)
class Input:
    """``content`` is base64 without white space, ``size`` counts the bytes it decodes to."""

    filename: str
    content: str = field(repr=False)
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """``url`` is an http(s) URL or the name of an uploaded object; ``mount`` is (folder, path in the container)."""

    url: str
    mount: tuple[str, str] | None = None
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    type: str
    mountpoint: str
    options: Mapping[str, str] = field(repr=False)
    default: bool = False
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    event: str
    type: str


@dataclass(frozen=True, slots=True)
class Placement:
    required_sites: tuple[str, ...] = ()
    required_regions: tuple[str, ...] = ()
    preferred_sites: tuple[str, ...] = ()
    preferred_regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    maximum_retries: int = 0
    maximum_task_retries: int = 0
    maximum_time_in_queue: int = 0
    maximum_idle_time_per_resource: int = 0
    leave_in_queue: bool = False
    placement: Placement | None = None
    priority: int = 0
    auto_scaling_type: str | None = None
    preemptible: bool = False
    ignore_task_failures: bool = False
    report_job_success_on_task_failure: bool = False
    run_serial_tasks_on_all_nodes: bool = False

    @property
    def max_attempts(self) -> int:
        return 1 + self.maximum_retries


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    resources: Resources
    tasks: tuple[Task, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    output_files: tuple[str, ...] = ()
    output_dirs: tuple[str, ...] = ()
    storage: Storage | None = None
    policies: Policies = Policies()
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of a factory. Exactly one of ``values``, ``step`` and ``number`` says which values it takes."""

    name: str
    start: int | float = 0
    end: int | float = 0
    step: int | float | None = None
    number: int | None = None
    values: tuple[int | float | str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Factory:
    """``type`` is ``parameterSweep``, ``zip`` or ``repeat``; ``number`` is for the last only."""

    name: str
    type: str
    jobs: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    number: int | None = None


@dataclass(frozen=True, slots=True)
class WorkflowPolicies:
    maximum_retries: int | None = None
    maximum_reruns: int = 0
    leave_in_queue: bool = False
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """``dependencies`` are (parent, child) pairs of job names, each once, in the document's order.

    ``form`` is how its DAG shows the jobs, where that is not left to their number: ``phases`` or ``compact``.
    """

    name: str
    jobs: tuple[Job, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    dependencies: tuple[tuple[str, str], ...] = ()
    factories: tuple[Factory, ...] = ()
    policies: WorkflowPolicies = WorkflowPolicies()
    notifications: tuple[Notification, ...] = ()
    form: str | None = None
