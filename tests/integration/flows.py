"""Workflows of a running stack as tests see them: described, waited for, their jobs by name."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.integration.stacks import Ended, Stack, until


def made(done: Ended) -> int:
    """The id of the workflow that the client says it has made."""
    assert done.code == 0, done
    [workflow] = re.findall(r"^Workflow created with id (\d+)$", done.stdout, re.MULTILINE)
    return int(workflow)


@contextlib.contextmanager
def roomy(stack: Stack, cpus: int) -> Iterator[None]:
    """Let the stack's node take so many jobs of one core, 1 GB and 10 GB of disk at once: they hardly do anything."""
    [(node, *own)] = stack.psql("SELECT id, cpus, memory_mb, disk_mb FROM prominence_node WHERE state = 'up'")
    size = "UPDATE prominence_node SET cpus = %s, memory_mb = %s, disk_mb = %s WHERE id = %s"
    stack.psql(size, cpus, cpus * 1024, cpus * 10240, node)
    try:
        yield
    finally:
        stack.psql(size, *own, node)


@dataclass(frozen=True)
class Flow:
    """One workflow of the user ``demo``."""

    stack: Stack
    id: int

    @classmethod
    def submitted(cls, stack: Stack, document: dict[str, Any]) -> Flow:
        """POST it."""
        with stack.client() as client:
            answer = client.post("/workflows", json=document)
        assert answer.status_code == 201, (answer.status_code, answer.text)
        return cls(stack, int(answer.json()["id"]))

    def describe(self) -> dict[str, Any]:
        with self.stack.client() as client:
            answer = client.get(f"/workflows/{self.id}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        [described] = answer.json()
        return dict(described)

    def wait(self, *statuses: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until it has one of the statuses (an end, if none is named); what it is then."""
        wanted = statuses or ("completed", "failed", "deleted")

        def ask() -> dict[str, Any] | None:
            described = self.describe()
            return described if described["status"] in wanted else None

        found = until(ask, seconds, 0.3, f"workflow {self.id} is {' or '.join(wanted)}")
        assert found is not None
        return found

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All its jobs in full, by their names."""
        query = {"id": str(self.id), "workflow": "true", "num": "-1", "all": "true", "detail": "true"}
        with self.stack.client() as client:
            answer = client.get("/jobs", params=query)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        found = sorted(answer.json(), key=lambda job: int(job["id"]))
        jobs = {str(job["name"]): job for job in found}
        assert len(jobs) == len(found), json.dumps(found)
        return jobs

    def out(self, job: str, stream: str = "stdout") -> str:
        """What a job has written, by its name (and number) in the workflow."""
        with self.stack.client() as client:
            answer = client.get(f"/workflows/{self.id}/{job}/{stream}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text
