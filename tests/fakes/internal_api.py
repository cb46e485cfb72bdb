"""A whole PROMINENCE API in memory, as far as the driver sees it, with switches for everything that can go wrong.

It is an httpx transport: the real client talks to it with no socket in between. Jobs move only when a test moves them
(``advance``, ``end``), as they do only when their agents report.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from airflow_prominence import tokens

SECRET = "a-secret-for-tests-of-thirty-two-bytes"
BASE_URL = "http://api.test/prominence/internal/v1"


@dataclass
class FakeJob:
    """A job as the API keeps it."""

    id: int
    dag_id: str = "prominence_job"
    run_id: str = ""
    group_id: str = ""
    slot: int = -1
    name: str = "calc"
    owner: str = "alice"
    version: int = 1
    attempt: int = 1
    max_attempts: int = 1
    phase: str = "queued"
    reason: str = ""
    outcome: str = ""
    node_success: bool | None = None
    released: bool = False
    site: str = ""
    nodes: list[str] = field(default_factory=list)
    image: str = "busybox"
    events: list[dict[str, Any]] = field(default_factory=list)
    will_retry: bool = False
    tasks_success: bool | None = None
    exit_codes: list[int] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    stage_out_ti: str = ""
    allowed: str = ""
    holding: str = ""
    let: list[tuple[str, str]] = field(default_factory=list)
    #: How an upload stands that was asked for by clearing stage_out, by the task's instance.
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)

    def view(self) -> dict[str, Any]:
        """The JobView of the routes."""
        external = {"running": "running", "staging_out": "running", "done": self.outcome}
        return {
            "id": self.id,
            "owner": self.owner,
            "name": self.name,
            "version": self.version,
            "attempt": self.attempt,
            "max_attempts": self.max_attempts,
            "phase": self.phase,
            "status": external.get(self.phase, "pending"),
            "reason": self.reason,
            "node_success": self.node_success,
            "released": self.released,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "site": self.site,
            "nodes": self.nodes,
            "image": self.image,
            "events": self.events,
            "will_retry": self.will_retry,
            "tasks_success": self.tasks_success,
            "stage_out_ti": self.stage_out_ti,
            "allowed": self.allowed,
            "holding": self.holding,
            "execution": {"tasks": [{"exitCode": code} for code in self.exit_codes]} if self.exit_codes else None,
        }


class FakeInternalApi(httpx.AsyncBaseTransport):
    """The internal routes over a dictionary of jobs."""

    def __init__(self) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.has_room = True
        self.nothing_to_upload = False
        self.refuse_runs: dict[str, str] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.cancelled: list[dict[str, Any]] = []
        #: The documents that tasks have brought, what was stored of a job, and the workflows that sensors look for.
        self.documents: list[Any] = []
        self.outputs: dict[int, list[dict[str, Any]]] = {}
        self.workflows: dict[int, dict[str, Any]] = {}
        self.chunks = 1
        self.most_failures = 20
        self.counts: dict[str, int] = {"evicted": 0, "woken": 2}
        # What went on.
        self.calls: Counter[str] = Counter()
        self.open_watches = 0
        self.most_open_watches = 0
        self.watched: list[dict[str, int]] = []
        # What shall go wrong.
        self.down_requests = 0
        self.down_until = 0.0
        self.errors_5xx = 0
        self.proxy_pages = 0
        self.drops_after_acting = 0
        self.delay_s = 0.0
        self.secret = SECRET
        self._changed = asyncio.Event()

    # --- what a test does --------------------------------------------------------------------------------------------

    def add(self, job_id: int, **fields: Any) -> FakeJob:
        """Make a job; its run is ``job-<id>`` unless told otherwise."""
        job = FakeJob(job_id, **({"run_id": f"job-{job_id}"} | fields))
        self.jobs[job_id] = job
        return job

    def change(self, job_id: int, *, event: tuple[str, str] | None = None, **fields: Any) -> FakeJob:
        """Change a job in one step: fields, an event of its story, its version; and wake the long-polls."""
        job = self.jobs[job_id]
        for name, value in fields.items():
            if not hasattr(job, name):
                raise AttributeError(name)
            setattr(job, name, value)
        if event is not None:
            job.events = [
                *job.events,
                {"time": time.time(), "attempt": job.attempt, "kind": event[0], "message": event[1]},
            ]
        job.version += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return job

    def place(self, job_id: int, site: str = "local", node: str = "node-1") -> None:
        """Give a job its place."""
        self.change(job_id, phase="ready", site=site, nodes=[node], event=("placed", f"Placed at {site} on {node}"))

    def advance(self, job_id: int, phase: str) -> None:
        """Let the agent report that it has come to a phase."""
        kinds = {"staging_in": "stage_in", "running": "running", "staging_out": "stage_out"}
        self.change(job_id, phase=phase, event=(kinds[phase], f"The job is {phase}"))

    def end(
        self, job_id: int, outcome: str = "completed", reason: str = "", code: int = 0, released: bool = True
    ) -> None:
        """End a job."""
        self.change(
            job_id,
            phase="done",
            outcome=outcome,
            reason=reason,
            node_success=outcome == "completed" and code == 0,
            exit_codes=[code] if outcome == "completed" else [],
            released=released,
            event=("end", f"The job is {outcome}"),
        )

    def again(self, job_id: int) -> None:
        """End an attempt of a job that has attempts left."""
        job = self.jobs[job_id]
        self.change(job_id, phase="queued", attempt=job.attempt + 1, site="", nodes=[], reason="")

    def down_for(self, seconds: float) -> None:
        """Answer nothing for a while."""
        self.down_until = time.monotonic() + seconds

    # --- the transport -----------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or fail as told."""
        path = request.url.raw_path.decode().removeprefix("/prominence/internal/v1")
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if time.monotonic() < self.down_until:
            raise httpx.ConnectError("connection refused", request=request)
        if self.down_requests:
            self.down_requests -= 1
            raise httpx.ConnectError("connection refused", request=request)
        if self.errors_5xx:
            self.errors_5xx -= 1
            return httpx.Response(503, json={"error": "the database is away"})
        if self.proxy_pages:
            self.proxy_pages -= 1
            return httpx.Response(404, text="<html>no such page</html>")
        try:
            tokens.check(request.headers["authorization"].removeprefix("Bearer "), tokens.DRIVER, self.secret)
        except tokens.TokenRefused:
            return httpx.Response(401, json={"error": "the token is not valid"})
        response = await self._route(request.method, path, json.loads(request.content or b"{}"))
        if self.drops_after_acting:
            self.drops_after_acting -= 1
            raise httpx.ReadError("connection reset", request=request)
        return response

    async def _route(self, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", r"/runs/([^/]+)/([^/]+)/job", self._job_of_run),
            ("POST", r"/runs/([^/]+)/([^/]+)/outcome", self._outcome),
            ("POST", r"/runs/([^/]+)/([^/]+)/look", self._look),
            ("GET", r"/jobs/(\d+)", self._job),
            ("GET", r"/jobs/(\d+)/outputs", self._outputs),
            ("POST", r"/jobs/(\d+)/go", self._go),
            ("POST", r"/jobs/(\d+)/claim", self._claim),
            ("POST", r"/jobs/(\d+)/stage_out", self._stage_out),
            ("POST", r"/watch", self._watch),
            ("POST", r"/tis/cancelled", self._tis_cancelled),
            ("POST", r"/shares/begin", self._begin_share),
            ("POST", r"/shares/progress", self._progress_of_shares),
            ("POST", r"/shares/failures", self._failures_of_share),
            ("POST", r"/maintenance", self._maintenance),
        ]
        for verb, pattern, handler in routes:
            found = re.fullmatch(pattern, path)
            if found and verb == method:
                self.calls[handler.__name__.strip("_")] += 1
                answer = handler(*found.groups(), body=body)
                return await answer if asyncio.iscoroutine(answer) else answer
        return httpx.Response(404, json={"error": f"no route {method} {path}"})

    def _job_of_run(self, dag_id: str, run_id: str, body: dict[str, Any]) -> httpx.Response:
        if run_id in self.refuse_runs:
            return httpx.Response(400, json={"error": self.refuse_runs[run_id]})
        where = (dag_id, run_id, body.get("group", ""), body.get("slot", -1))
        for job in self.jobs.values():
            if (job.dag_id, job.run_id, job.group_id, job.slot) == where:
                return httpx.Response(200, json={"job": job.view()})
        if "document" not in body:
            return httpx.Response(400, json={"error": "the run has no job"})
        self.documents.append(body["document"])
        job_id = max(self.jobs, default=0) + 1
        made = self.add(job_id, dag_id=dag_id, run_id=run_id, group_id=body["group"], slot=body["slot"])
        return httpx.Response(200, json={"job": made.view()})

    def _look(self, dag_id: str, run_id: str, body: dict[str, Any]) -> httpx.Response:
        if body["workflow"] is not None:
            return httpx.Response(200, json={"workflow": self.workflows[body["workflow"]]})
        job = self.jobs.get(body["job"])
        if job is None:
            return httpx.Response(400, json={"error": f"Job {body['job']} does not exist, or is not yours"})
        return httpx.Response(200, json={"job": job.view()})

    def _go(self, job_id: str, body: dict[str, Any]) -> httpx.Response:
        """Let it go on; a release finds that nothing will, and ends it."""
        job = self.jobs[int(job_id)]
        job.let.append((body["phase"], body["ti_id"]))
        enters = {"provision": "ready", "stage_in": "staging_in", "run": "running", "stage_out": "staging_out"}
        if body["phase"] == "release":
            self.end(job.id, "failed", "Job was not let go on in Airflow")
        else:
            self.change(job.id, allowed=enters[body["phase"]])
        return httpx.Response(200, json={"job": job.view()})

    def _outputs(self, job_id: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"outputs": self.outputs.get(int(job_id), [])})

    def _job(self, job_id: str, body: dict[str, Any]) -> httpx.Response:
        job = self.jobs.get(int(job_id))
        if job is None:
            return httpx.Response(400, json={"error": "no such job"})
        return httpx.Response(200, json={"job": job.view()})

    def _claim(self, job_id: str, body: dict[str, Any]) -> httpx.Response:
        job = self.jobs[int(job_id)]
        job.claims.append(body["holder"])
        if job.phase == "queued" and self.has_room:
            self.place(job.id)
        elif job.phase == "queued" and job.reason != "No matching resources currently available":
            why = "No matching resources currently available"
            self.change(job.id, reason=why, event=("waiting", f"Waiting for room: {why}"))
        return httpx.Response(200, json={"job": job.view()})

    def _stage_out(self, job_id: str, body: dict[str, Any]) -> httpx.Response:
        """An upload begins when it is first asked for, and ends when a test says so (``uploaded``)."""
        job = self.jobs[int(job_id)]
        if job.stage_out_ti == body["ti_id"] or self.nothing_to_upload:
            return httpx.Response(200, json={"again": False})
        if body["ti_id"] not in job.uploads:
            job.uploads[body["ti_id"]] = {"again": True, "over": False, "error": None, "since": time.time()}
            self.change(job.id, event=("upload", "Uploading output again, from node node-1"))
        return httpx.Response(200, json=job.uploads[body["ti_id"]])

    def uploaded(self, job_id: int, ti_id: str, error: str | None = None) -> None:
        """End an upload."""
        self.jobs[job_id].uploads[ti_id].update(over=True, error=error)
        self.change(job_id, event=("upload", error or "Output was uploaded again"))

    async def _watch(self, body: dict[str, Any]) -> httpx.Response:
        self.open_watches += 1
        self.most_open_watches = max(self.most_open_watches, self.open_watches)
        self.watched.append(body["jobs"])
        deadline = time.monotonic() + body["timeout"]
        try:
            while True:
                changed = self._changed
                different = [
                    self.jobs[int(job)].view()
                    for job, version in body["jobs"].items()
                    if int(job) in self.jobs and self.jobs[int(job)].version != version
                ]
                if different or time.monotonic() >= deadline:
                    return httpx.Response(200, json={"jobs": different})
                try:
                    await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
                except asyncio.TimeoutError:
                    continue
                if time.monotonic() < self.down_until:
                    raise httpx.ReadError("connection reset")
        finally:
            self.open_watches -= 1

    def _outcome(self, dag_id: str, run_id: str, body: dict[str, Any]) -> httpx.Response:
        told = self.outcomes.get(run_id)
        if told is not None:
            return httpx.Response(200, json=told)
        for job in self.jobs.values():
            if (job.dag_id, job.run_id) == (dag_id, run_id):
                answer = {"success": bool(job.node_success), "pending": job.phase != "done", "reason": job.reason}
                return httpx.Response(200, json=answer)
        return httpx.Response(200, json={"success": False, "pending": False, "reason": "the run has no job"})

    def _tis_cancelled(self, body: dict[str, Any]) -> httpx.Response:
        self.cancelled.append(body)
        return httpx.Response(200, json={"acted": False})

    def _begin_share(self, body: dict[str, Any]) -> httpx.Response:
        if body["run_id"] in self.refuse_runs:
            return httpx.Response(400, json={"error": self.refuse_runs[body["run_id"]]})
        for job in self._in_share({**body, "chunks": self.chunks}):
            job.claims.append("share")
        return httpx.Response(200, json={"chunks": self.chunks})

    def _in_share(self, share: dict[str, Any]) -> list[FakeJob]:
        return [
            job
            for job in self.jobs.values()
            if (job.dag_id, job.run_id, job.group_id) == (share["dag_id"], share["run_id"], share["task_id"])
            and job.slot % share["chunks"] == share["map_index"]
        ]

    def _progress_of_shares(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"shares": [self._progress(self._in_share(s)) for s in body["shares"]]})

    @staticmethod
    def _progress(jobs: list[FakeJob]) -> dict[str, int]:
        done = [job for job in jobs if job.phase == "done"]
        return {
            "total": len(jobs),
            "done": len(done),
            "failed": len([job for job in done if not job.node_success]),
            "running": len([job for job in jobs if job.phase not in ("done", "queued")]),
        }

    def _failures_of_share(self, body: dict[str, Any]) -> httpx.Response:
        bad = [job for job in self._in_share(body) if job.phase == "done" and not job.node_success]
        told = [
            {"id": job.id, "name": job.name, "status": job.outcome, "reason": job.reason, "exit_codes": job.exit_codes}
            for job in bad[: self.most_failures]
        ]
        return httpx.Response(200, json={"jobs": told})

    def _maintenance(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json=self.counts)
