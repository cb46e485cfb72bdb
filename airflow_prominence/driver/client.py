"""The client of the API's internal routes, for triggers.

An API that doesn't answer must never fail a task: every call waits, for ever if need be, until the API answers. Only a
refusal, a 4xx with a sentence of ours, is an answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from airflow_prominence.driver.jobview import JobView
from airflow_prominence.driver.share import FailedJob, Share, ShareProgress
from airflow_prominence.driver.workflowview import WorkflowView

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_TOKEN_TTL_S = 60
_TOKEN_REUSED_S = 30
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
# A wrong token is an outage at first (a secret being changed, clocks) and a wrong configuration when it lasts.
_UNAUTHORIZED_FOR_S = 120.0


class ApiRefused(Exception):
    """The API answered and said no; the sentence says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{sentence} (HTTP {status})")
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class RunOutcome:
    """What the API says of a whole run."""

    success: bool
    pending: bool
    reason: str


@dataclass(frozen=True)
class Restaging:
    """How an upload stands that was asked for by clearing the task; ``again`` is false where there is none to do."""

    again: bool
    over: bool = False
    error: str | None = None
    since: float = 0.0


class InternalClient:
    """Calls the internal routes; one for all triggers of a process, used in one event loop."""

    def __init__(
        self,
        base_url: str,
        mint_token: Callable[[int], str],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        first_pause_s: float = _FIRST_PAUSE_S,
        unauthorized_for_s: float = _UNAUTHORIZED_FOR_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._mint_token = mint_token
        self._token = ""
        self._token_until = 0.0
        self._first_pause_s = first_pause_s
        self._unauthorized_for_s = unauthorized_for_s
        loopback = httpx.URL(self.base_url).host in {"localhost", "127.0.0.1", "::1"}
        self._http = httpx.AsyncClient(
            transport=transport,
            # No waiting for a free connection: hundreds of triggers may start at once.
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            timeout=httpx.Timeout(30.0, connect=5.0, pool=None),
            trust_env=not loopback,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def job_of_run(self, dag_id: str, run_id: str, group: str = "", slot: int = -1) -> JobView:
        """Return the job that a run, or a group of its tasks, drives; it is made now if somebody started that run.

        ``slot`` is the map index of a group's tasks.
        """
        path = f"/runs/{_segment(dag_id)}/{_segment(run_id)}/job"
        return await self._call("POST", path, {"group": group, "slot": slot}, read=_job)

    async def job_of_task(
        self, dag_id: str, run_id: str, group: str, slot: int, task_id: str, document: object, *, holds: bool
    ) -> JobView:
        """Return the job of a task that has brought its document with it; it is made now if there is none yet.

        ``holds``: at the border of each of its phases the job waits for that phase's task.
        """
        body = {"group": group, "slot": slot, "task_id": task_id, "document": document, "holds": holds}
        path = f"/runs/{_segment(dag_id)}/{_segment(run_id)}/job"
        return await self._call("POST", path, body, read=_job)

    async def outputs(self, job_id: int) -> list[dict[str, Any]]:
        """Return a job's stored outputs: name, kind, size, sha256, and ``key`` or, on its user's storage, ``path``."""
        return await self._call("GET", f"/jobs/{job_id}/outputs", read=_outputs)

    async def look_for(
        self, dag_id: str, run_id: str, task_id: str, job: int | None, workflow: int | None
    ) -> dict[str, Any]:
        """Return a job (``{"job": …}``) or workflow (``{"workflow": …}``) of the owner of a run's task."""
        body = {"task_id": task_id, "job": job, "workflow": workflow}
        path = f"/runs/{_segment(dag_id)}/{_segment(run_id)}/look"
        return await self._call("POST", path, body, read=dict)

    async def workflow_of_run(self, dag_id: str, run_id: str) -> WorkflowView:
        """Return the workflow that a run has made of the document it was started with; it is made now if need be."""
        path = f"/runs/{_segment(dag_id)}/{_segment(run_id)}/workflow"

        def read(answer: Mapping[str, Any]) -> WorkflowView:
            return WorkflowView.from_json(answer["workflow"])

        return await self._call("POST", path, {}, read=read, answer_within_s=120)

    async def workflow_cancelled(self, workflow_id: int, ti_id: str, try_number: int) -> bool:
        """Tell that a workflow's trigger was cancelled; returns whether the API deleted the workflow for it."""
        body = {"workflow": workflow_id, "ti_id": ti_id, "try_number": try_number}
        return await self._call("POST", "/tis/cancelled", body, read=lambda answer: bool(answer["acted"]))

    async def begin_share(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Share:
        """Let the jobs of a mapped task's share want their places; returns the share."""
        where = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}

        def read(answer: Mapping[str, Any]) -> Share:
            return Share(dag_id, run_id, task_id, map_index, int(answer["chunks"]))

        return await self._call("POST", "/shares/begin", where, read=read, answer_within_s=120)

    async def progress_of_shares(self, shares: Sequence[Share]) -> list[ShareProgress]:
        """Return how far each of the shares is."""
        asked = [asdict(share) for share in shares]

        def read(answer: Mapping[str, Any]) -> list[ShareProgress]:
            return [ShareProgress.from_json(item) for item in answer["shares"]]

        return await self._call("POST", "/shares/progress", {"shares": asked}, read=read)

    async def failures_of_share(self, share: Share) -> list[FailedJob]:
        """Return the first jobs of a share that did not end well."""

        def read(answer: Mapping[str, Any]) -> list[FailedJob]:
            return [FailedJob.from_json(item) for item in answer["jobs"]]

        return await self._call("POST", "/shares/failures", asdict(share), read=read)

    async def share_cancelled(self, share: Share, ti_id: str, try_number: int) -> bool:
        """Tell that a share's trigger was cancelled; returns whether the API ended jobs for it."""
        body = {"share": asdict(share), "ti_id": ti_id, "try_number": try_number}
        return await self._call("POST", "/tis/cancelled", body, read=lambda answer: bool(answer["acted"]))

    async def job(self, job_id: int) -> JobView:
        """Return a job."""
        return await self._call("GET", f"/jobs/{job_id}", read=_job)

    async def claim(self, job_id: int, holder: str) -> JobView:
        """Say that a job wants its place now; returns the job as it is then."""
        return await self._call("POST", f"/jobs/{job_id}/claim", {"holder": holder}, read=_job)

    async def let_go_on(self, job_id: int, phase: str, ti_id: str) -> JobView:
        """Say that the task of a phase has begun, for which the job may hold; returns the job as it is then."""
        return await self._call("POST", f"/jobs/{job_id}/go", {"phase": phase, "ti_id": ti_id}, read=_job)

    async def stage_out_again(self, job_id: int, ti_id: str) -> Restaging:
        """Have an ended job's outputs uploaded again, once for this task instance; returns how it stands."""
        return await self._call("POST", f"/jobs/{job_id}/stage_out", {"ti_id": ti_id}, read=_restaging)

    async def watch(self, holder: str, versions: Mapping[int, int], timeout_s: float) -> list[JobView]:
        """Wait until any of these jobs has another version than the given one; empty after ``timeout_s``."""
        return await self._call(
            "POST",
            "/watch",
            {"holder": holder, "jobs": {str(job): version for job, version in versions.items()}, "timeout": timeout_s},
            read=_jobs,
            answer_within_s=timeout_s + 15,
        )

    async def task_cancelled(self, job_id: int, ti_id: str, try_number: int, **whose: str | int) -> bool:
        """Tell that a trigger was cancelled; returns whether the API ended the job for it."""
        body = {"job": job_id, "ti_id": ti_id, "try_number": try_number, **whose}
        return await self._call("POST", "/tis/cancelled", body, read=lambda answer: bool(answer["acted"]))

    async def outcome(self, dag_id: str, run_id: str) -> RunOutcome:
        """Return how a run's jobs ended."""
        return await self._call("POST", f"/runs/{_segment(dag_id)}/{_segment(run_id)}/outcome", {}, read=_outcome)

    async def maintenance(self) -> dict[str, int]:
        """Let the API keep house once; returns what it did."""
        return await self._call("POST", "/maintenance", {}, read=_counts, answer_within_s=120)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[Mapping[str, Any]], _T],
        answer_within_s: float = 30.0,
    ) -> _T:
        """Send until there is an answer. Every route is idempotent, so sending again does no harm."""
        outage_since: float | None = None
        pause = self._first_pause_s
        while True:
            try:
                response = await self._http.request(
                    method,
                    self.base_url + path,
                    json=body,
                    headers={"Authorization": f"Bearer {self._bearer()}"},
                    timeout=httpx.Timeout(answer_within_s, connect=5.0, pool=None),
                )
                answer = _read(response, read)
            except (httpx.HTTPError, _NotOurAnswer) as failure:
                trouble = str(failure) or type(failure).__name__
            else:
                if outage_since is not None:
                    log.info("The PROMINENCE API answers again, after %.0f s", time.monotonic() - outage_since)
                return answer
            now = time.monotonic()
            if outage_since is None:
                outage_since = now
                log.warning("The PROMINENCE API at %s does not answer (%s); waiting for it", self.base_url, trouble)
            elif trouble.startswith(_UNAUTHORIZED) and now - outage_since > self._unauthorized_for_s:
                raise ApiRefused(401, trouble)
            self._token_until = 0.0
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads callers, hides nothing
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _bearer(self) -> str:
        now = time.monotonic()
        if now >= self._token_until:
            self._token = self._mint_token(_TOKEN_TTL_S)
            self._token_until = now + _TOKEN_REUSED_S
        return self._token


_UNAUTHORIZED = "the token of this triggerer is refused"


class _NotOurAnswer(Exception):
    """Something answered that is not (or not yet, or not any more) our API in good health."""


def _read(response: httpx.Response, read: Callable[[Mapping[str, Any]], _T]) -> _T:
    """Return what a 2xx says; tell our refusals from what a proxy or a starting server says."""
    try:
        body = response.json()
    except ValueError:
        body = None
    status = response.status_code
    if 200 <= status < 300 and isinstance(body, dict):
        try:
            return read(body)
        except (KeyError, TypeError, ValueError) as unreadable:
            # Another version of the API, in the middle of an upgrade.
            raise _NotOurAnswer(f"its answer cannot be read: {type(unreadable).__name__} {unreadable}") from unreadable
    sentence = body.get("error") if isinstance(body, dict) else None
    if status == 401:
        raise _NotOurAnswer(f"{_UNAUTHORIZED}: {sentence or 'HTTP 401'}")
    if 400 <= status < 500 and status not in (408, 425, 429) and isinstance(sentence, str):
        raise ApiRefused(status, sentence)
    raise _NotOurAnswer(f"HTTP {status}" + (f": {sentence}" if sentence else ""))


def _job(answer: Mapping[str, Any]) -> JobView:
    return JobView.from_json(answer["job"])


def _jobs(answer: Mapping[str, Any]) -> list[JobView]:
    return [JobView.from_json(job) for job in answer["jobs"]]


def _outputs(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(output) for output in answer["outputs"]]


def _outcome(answer: Mapping[str, Any]) -> RunOutcome:
    return RunOutcome(bool(answer["success"]), bool(answer["pending"]), str(answer["reason"] or ""))


def _restaging(answer: Mapping[str, Any]) -> Restaging:
    if not answer["again"]:
        return Restaging(False)
    error = answer["error"]
    return Restaging(True, bool(answer["over"]), None if error is None else str(error), float(answer["since"]))


def _counts(answer: Mapping[str, Any]) -> dict[str, int]:
    return {str(what): int(count) for what, count in answer.items()}


def _segment(text: str) -> str:
    return quote(text, safe="")
