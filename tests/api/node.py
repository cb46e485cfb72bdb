"""A node that speaks the agent protocol by hand, so that tests decide what it says and when."""

from __future__ import annotations

import time
import uuid
from typing import Any

from airflow_prominence import tokens

BASE = "/prominence/internal/v1"


def secret() -> str:
    from airflow_prominence.api.settings import settings

    return settings().secret


def driver_headers() -> dict[str, str]:
    return {"Authorization": "Bearer " + tokens.mint(tokens.DRIVER, {"sub": "test"}, 60, secret())}


class Driver:
    """Calls the internal routes as a trigger would."""

    def __init__(self, http: Any) -> None:
        self._http = http
        self.holder = uuid.uuid4().hex

    def post(self, path: str, body: Any = None) -> Any:
        return self._http.post(BASE + path, json=body or {}, headers=driver_headers())

    def claim(self, job_id: int) -> dict[str, Any]:
        answer = self.post(f"/jobs/{job_id}/claim", {"holder": self.holder})
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])

    def view(self, job_id: int) -> dict[str, Any]:
        answer = self._http.get(f"{BASE}/jobs/{job_id}", headers=driver_headers())
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])


class PretendNode:
    """A node of a site of its own."""

    def __init__(self, http: Any, *, cpus: int = 4, memory_mb: int = 4096, disk_mb: int = 40960) -> None:
        self._http = http
        self.name = f"node-{uuid.uuid4().hex[:6]}"
        self.site = f"site-{self.name}"
        self.sizes = {"cpus": cpus, "memory_mb": memory_mb, "disk_mb": disk_mb}
        self.boot = uuid.uuid4().hex
        self.held: dict[str, str] = {}
        self.orders: list[str] = []
        self.info: dict[str, Any] = {}
        self.token = tokens.mint(tokens.NODE, {"sub": self.name, "site": self.site}, 3600, secret())
        self.id = self.register()

    def post(self, path: str, body: Any) -> Any:
        return self._http.post(BASE + path, json=body, headers={"Authorization": f"Bearer {self.token}"})

    def register(self) -> int:
        answer = self.post(
            "/nodes",
            {
                "name": self.name,
                "site": self.site,
                "kind": "local",
                "boot": self.boot,
                **self.sizes,
                "runtimes": {"singularity": "bubblewrap", "udocker": "bubblewrap"},
                "runtime_info": self.info,
                "agent_version": "test",
            },
        )
        assert answer.status_code == 200, answer.text
        return int(answer.json()["node"])

    def poll(self, timeout: float = 0) -> dict[str, Any]:
        body = {"boot": self.boot, "leases": self.held, "commands": self.orders, "timeout": timeout}
        answer = self.post(f"/nodes/{self.id}/poll", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def take(self, job_id: int | None = None) -> PretendRunner:
        """Poll, expect one assignment (of this job) and hold it."""
        [assignment] = [given for given in self.poll()["start"] if job_id in (None, given["job"])]
        self.held[assignment["lease"]] = "running"
        return PretendRunner(self._http, assignment)

    def order(self) -> PretendOrder:
        """Wait for the one order that is new, and hold it."""
        [given] = self.poll(10)["commands"]
        self.orders.append(given["id"])
        return PretendOrder(self, given)

    def put(self, path: str, data: bytes) -> Any:
        return self._http.put(BASE + path, content=data, headers={"Authorization": f"Bearer {self.token}"})

    def gone(self) -> None:
        """Leave: the room of this node is no longer offered."""
        from airflow_prominence.api.database import transact
        from airflow_prominence.store.tables import Node

        def lose(session: Any) -> None:
            session.get_one(Node, self.id).state = "lost"

        transact(lose)


class PretendRunner:
    """The runner of one assignment."""

    def __init__(self, http: Any, assignment: dict[str, Any]) -> None:
        self._http, self.assignment, self.seq = http, assignment, 0
        self.lease = assignment["lease"]
        self.headers = {"Authorization": f"Bearer {assignment['token']}"}

    def send(self, *reports: dict[str, Any]) -> Any:
        return self._http.post(
            f"{BASE}/leases/{self.lease}/reports", json={"reports": list(reports)}, headers=self.headers
        )

    def made(self, kind: str, /, **data: Any) -> dict[str, Any]:
        self.seq += 1
        return {"seq": self.seq, "time": time.time(), "kind": kind, "data": data}

    def report(self, kind: str, /, **data: Any) -> dict[str, Any]:
        answer = self.send(self.made(kind, **data))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def write(self, stream: str, offset: int, data: bytes) -> Any:
        return self._http.put(
            f"{BASE}/leases/{self.lease}/streams/{stream}?offset={offset}", content=data, headers=self.headers
        )

    def run(self, exit_code: int = 0) -> None:
        """Report a whole ordinary life."""
        self.report("stage_in")
        self.report("pulled", task=0, status="completed", seconds=0.5)
        self.report("running")
        self.report("task", task=0, exit_code=exit_code, wall=1.0, cpu=0.5, max_rss_kb=1000, retries=0)
        self.report("stage_out")
        tasks = [{"imagePullStatus": "completed", "imagePullTime": 0.5, "exitCode": exit_code}]
        self.report(
            "end", status="completed", reason="", node_success=exit_code == 0, execution={"tasks": tasks}, tail="bye"
        )


class PretendOrder:
    """The process that carries out one order."""

    def __init__(self, node: PretendNode, given: dict[str, Any]) -> None:
        self._node, self.given, self.id = node, given, str(given["id"])
        self.offset = 0

    def write(self, data: bytes) -> str | None:
        """Say something; why to stop, if so."""
        answer = self._node.put(f"/commands/{self.id}/output?offset={self.offset}", data)
        assert answer.status_code == 200, answer.text
        self.offset = answer.json()["offset"]
        stop = answer.json()["stop"]
        return None if stop is None else str(stop)

    def end(self, exit_code: int | None = 0, error: str | None = None) -> None:
        answer = self._node.post(f"/commands/{self.id}/end", {"exit_code": exit_code, "error": error})
        assert answer.status_code == 200, answer.text
        if self.id in self._node.orders:
            self._node.orders.remove(self.id)
