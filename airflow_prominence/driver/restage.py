"""Uploading an ended job's outputs again, because somebody has cleared its task ``stage_out``.

As in driving, nothing is kept here: asked again by another triggerer, the API tells how the same upload stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from airflow_prominence.driver.client import Restaging
from airflow_prominence.driver.jobview import JobEvent, JobView
from airflow_prominence.driver.jobwatch import JobWatch
from airflow_prominence.driver.story import UPLOAD
from airflow_prominence.driver.verdict import Verdict

# The API is asked again even when nothing changed: a node that is lost changes no job that has ended.
_ASK_AGAIN_S = 10.0


class Restages(Protocol):
    """The calls that it makes."""

    def job(self, job_id: int) -> Awaitable[JobView]: ...  # pragma: no cover

    def stage_out_again(self, job_id: int, ti_id: str) -> Awaitable[Restaging]: ...  # pragma: no cover


async def restage(
    client: Restages, watch: JobWatch, job: JobView, ti_id: str, write: Callable[[str], None]
) -> Verdict | None:
    """Have it done and wait for its end, writing its story; None where the job's own end is all there is to tell."""
    told: set[JobEvent] = set()
    while True:
        stands = await client.stage_out_again(job.id, ti_id)
        if not stands.again:
            return None
        if stands.over:
            _tell(await client.job(job.id), stands.since, told, write)
            if stands.error is None:
                return Verdict("success", f"The output of j{job.title[1:]} was uploaded again.")
            return Verdict("failed", f"The output of j{job.title[1:]} was not uploaded again: {stands.error}.")
        _tell(job, stands.since, told, write)
        try:
            job = await asyncio.wait_for(watch.changed(job.id, job.version), _ASK_AGAIN_S)
        except asyncio.TimeoutError:
            continue


def _tell(job: JobView, since: float, told: set[JobEvent], write: Callable[[str], None]) -> None:
    for event in job.events:
        if event.kind == UPLOAD and event.time >= since and event not in told:
            told.add(event)
            write(event.message)
