"""A share of a factory's jobs as the internal routes show it to the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """The jobs that one instance of a mapped task drives; ``chunks`` is among how many they are shared out."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    chunks: int


@dataclass(frozen=True)
class ShareProgress:
    """How many of a share's jobs are where; ``failed`` are part of those that are ``done``."""

    total: int
    done: int
    failed: int
    running: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShareProgress:
        """Read the counts of an answer."""
        return cls(int(data["total"]), int(data["done"]), int(data["failed"]), int(data["running"]))

    @property
    def over(self) -> bool:
        """Whether nothing more happens to any of the jobs."""
        return self.done == self.total

    @property
    def sentence(self) -> str:
        """The counts as a log tells them."""
        waiting = self.total - self.done - self.running
        failed = f", {self.failed} of them failed" if self.failed else ""
        return f"{self.done} of {self.total} jobs are over{failed}; {self.running} run, {waiting} wait"


@dataclass(frozen=True)
class FailedJob:
    """A job that did not end well."""

    id: int
    name: str
    status: str
    reason: str
    exit_codes: tuple[int, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FailedJob:
        """Read a job of an answer."""
        codes = tuple(int(code) for code in data["exit_codes"])
        return cls(int(data["id"]), str(data["name"]), str(data["status"]), str(data["reason"] or ""), codes)

    @property
    def sentence(self) -> str:
        """What became of it, as a log tells it."""
        codes = f"exit code{'' if len(self.exit_codes) == 1 else 's'} {', '.join(map(str, self.exit_codes))}"
        why = self.reason or (codes if self.exit_codes else "")
        return f"Job {self.id} ({self.name}) is {self.status}" + (f": {why}" if why else "")
