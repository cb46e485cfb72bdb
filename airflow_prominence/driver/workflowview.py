"""A workflow as the internal routes show it to the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorkflowView:
    """What the API says of a workflow at one moment; ``progress`` as ``prominence.md`` 3.4 has it."""

    id: int
    status: str
    reason: str
    ended: bool
    progress: Mapping[str, int]
    dag_id: str
    run_id: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkflowView:
        """Read a workflow of an answer."""
        return cls(
            id=int(data["id"]),
            status=str(data["status"]),
            reason=str(data["reason"] or ""),
            ended=bool(data["ended"]),
            progress={str(key): int(count) for key, count in data["progress"].items()},
            dag_id=str(data["dag_id"]),
            run_id=str(data["run_id"]),
        )

    @property
    def sentence(self) -> str:
        """How it stands, as a log tells it."""
        if self.ended and self.status == "completed":
            return f"All {self.progress.get('total', 0)} jobs of workflow {self.id} ended well."
        if self.ended:
            return f"Workflow {self.id} is {self.status}" + (f": {self.reason}" if self.reason else "")
        done, failed, total = (self.progress.get(key, 0) for key in ("done", "failed", "total"))
        return f"Workflow {self.id} is {self.status}: {done} of {total} jobs ended well, {failed} failed"
