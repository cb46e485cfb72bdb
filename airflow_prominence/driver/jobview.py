"""A job as the internal routes show it to the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# In the order in which a job goes through them; an attempt that is tried again starts over at the first.
PHASES = ("queued", "provisioning", "ready", "staging_in", "running", "staging_out", "done")

# Kinds of events that say how far an attempt has come (the rest of a job's story is told in between).
_REACHED_BY_EVENT = {
    "placed": "ready",
    "stage_in": "staging_in",
    "pulled": "staging_in",
    "running": "running",
    "task": "running",
    "stage_out": "staging_out",
}


@dataclass(frozen=True)
class JobEvent:
    """A line of a job's story."""

    time: float
    attempt: int
    kind: str
    message: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobEvent:
        """Read an event of an answer."""
        return cls(float(data["time"]), int(data["attempt"]), str(data["kind"]), str(data["message"]))


def _exit_codes(execution: Any) -> tuple[int, ...]:
    """The exit codes of the tasks that ran, from the job's ``execution`` (there since its end)."""
    tasks = execution.get("tasks") if isinstance(execution, Mapping) else None
    return tuple(int(task["exitCode"]) for task in tasks or () if "exitCode" in task)


@dataclass(frozen=True)
class JobView:
    """What the API says of a job at one moment; ``version`` grows with every change."""

    id: int
    owner: str
    name: str
    version: int
    attempt: int
    max_attempts: int
    phase: str
    status: str
    reason: str
    node_success: bool | None
    released: bool
    dag_id: str
    run_id: str
    site: str
    nodes: tuple[str, ...]
    image: str
    events: tuple[JobEvent, ...]
    will_retry: bool
    # Of a job that holds after its tasks: whether they ended well.
    tasks_success: bool | None = None
    # To which phase a job may go that holds at their borders ("" where it never does), and before which it holds now.
    allowed: str = ""
    holding: str = ""
    exit_codes: tuple[int, ...] = ()
    # The instance of the task stage_out that belongs to the job's own end; a later one uploads its outputs again.
    stage_out_ti: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobView:
        """Read a job of an answer."""
        phase = str(data["phase"])
        if phase not in PHASES:
            raise ValueError(f"the API told an unknown phase {phase!r} of job {data['id']}")
        return cls(
            id=int(data["id"]),
            owner=str(data["owner"]),
            name=str(data["name"] or ""),
            version=int(data["version"]),
            attempt=int(data["attempt"]),
            max_attempts=int(data["max_attempts"]),
            phase=phase,
            status=str(data["status"]),
            reason=str(data["reason"] or ""),
            node_success=data["node_success"],
            released=bool(data["released"]),
            dag_id=str(data["dag_id"] or ""),
            run_id=str(data["run_id"] or ""),
            site=str(data["site"] or ""),
            nodes=tuple(str(node) for node in data["nodes"]),
            image=str(data["image"] or ""),
            events=tuple(JobEvent.from_json(event) for event in data["events"]),
            will_retry=bool(data["will_retry"]),
            tasks_success=data.get("tasks_success"),
            allowed=str(data.get("allowed") or ""),
            holding=str(data.get("holding") or ""),
            exit_codes=_exit_codes(data.get("execution")),
            stage_out_ti=str(data.get("stage_out_ti") or ""),
        )

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the job but the release of its place."""
        return self.phase == "done"

    def may_enter(self, phase: str) -> bool:
        """Whether the job goes on to a phase by itself when it comes to its border."""
        return not self.allowed or PHASES.index(self.allowed) >= PHASES.index(phase)

    @property
    def has_its_input(self) -> bool:
        """Whether all is there for its tasks, whether they run already or are held."""
        return self.has_reached("running") or self.holding == "running"

    @property
    def title(self) -> str:
        """The job as a sentence names it."""
        return f"Job {self.id} ({self.name})" if self.name else f"Job {self.id}"

    @property
    def first_attempt(self) -> int:
        """The attempt with which the job began, or began again after somebody cleared it in Airflow."""
        return max((event.attempt for event in self.events if event.kind == "cleared"), default=1)

    def has_reached(self, phase: str) -> bool:
        """Whether the job has come as far as ``phase``, in this attempt or in one before, since it was cleared."""
        wanted = PHASES.index(phase)
        if not self.ended and PHASES.index(self.phase) >= wanted:
            return True
        if self.ended and (phase == "done" or self.node_success or self.status == "completed"):
            return True
        return any(
            PHASES.index(_REACHED_BY_EVENT[event.kind]) >= wanted
            for event in self.events
            if event.kind in _REACHED_BY_EVENT and event.attempt >= self.first_attempt
        )
