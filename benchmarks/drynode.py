"""A node without containers: it reports each job's whole life as soon as it is given the job.

It exists to measure our engine alone; no test of what is right may use it. Its protocol is the agents' own. Run as a
process: ``python -m benchmarks.drynode INTERNAL_URL SECRET CPUS``; it serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Any

import httpx

from airflow_prominence import tokens

SITE = NAME = "dry"
RUNTIME = "dry"
_TOKEN_S = 86400


class DryNode:
    """A node of a site of its own that has room for so many jobs at once."""

    def __init__(self, url: str, secret: str, cpus: int) -> None:
        self.cpus, self.boot = cpus, uuid.uuid4().hex
        token = tokens.mint(tokens.NODE, {"sub": NAME, "site": SITE}, _TOKEN_S, secret)
        self.held: dict[str, str] = {}
        self.changed = asyncio.Event()
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            limits=httpx.Limits(max_connections=8),
            trust_env=False,
        )

    async def serve(self) -> None:
        """Register and take jobs until cancelled."""
        node = await self._register()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            held = dict(self.held)
            self.changed.clear()
            answer = await self._poll(node, held)
            for lease in answer["forget"]:
                self.held.pop(lease, None)
            for given in answer["start"]:
                if given["lease"] not in self.held:
                    self.held[given["lease"]] = "running"
                    task = asyncio.create_task(self._live(given))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

    async def _register(self) -> int:
        answer = await self.http.post(
            "/nodes",
            json={
                "name": NAME,
                "site": SITE,
                "kind": "local",
                "boot": self.boot,
                "cpus": self.cpus,
                "memory_mb": self.cpus * 1024,
                "disk_mb": self.cpus * 1024,
                "runtimes": {"singularity": RUNTIME},
                "runtime_info": {},
                "agent_version": "dry",
            },
        )
        answer.raise_for_status()
        return int(answer.json()["node"])

    async def _poll(self, node: int, held: dict[str, str]) -> dict[str, Any]:
        body = {"boot": self.boot, "leases": held, "timeout": 1 if held else 10}
        answer = await self.http.post(f"/nodes/{node}/poll", json=body)
        answer.raise_for_status()
        return dict(answer.json())

    async def _live(self, given: dict[str, Any]) -> None:
        now = time.time()
        life: list[tuple[str, dict[str, Any]]] = [
            ("stage_in", {}),
            ("pulled", {"task": 0, "status": "cached", "seconds": 0}),
            ("running", {}),
            ("task", {"task": 0, "exit_code": 0, "wall": 0.0, "cpu": 0.0, "max_rss_kb": 1, "retries": 0}),
            ("stage_out", {}),
            (
                "end",
                {"status": "completed", "reason": "", "node_success": True, "execution": {"tasks": [{"exitCode": 0}]}},
            ),
        ]
        reports = [{"seq": n, "time": now, "kind": kind, "data": data} for n, (kind, data) in enumerate(life, 1)]
        answer = await self.http.post(
            f"/leases/{given['lease']}/reports",
            json={"reports": reports},
            headers={"Authorization": f"Bearer {given['token']}"},
        )
        answer.raise_for_status()
        self.held[given["lease"]] = "ended"
        self.changed.set()


def main() -> None:
    """Serve as told on the command line."""
    url, secret, cpus = sys.argv[1:4]

    async def serve() -> None:
        await DryNode(url, secret, int(cpus)).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
