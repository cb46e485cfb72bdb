"""``drive(job, until=phase)``: bring a job to the end of a phase, whatever has happened to it so far.

From its place on, a job runs by itself: its node's agent works and reports. What is left to the driver is to ask for a
place while the job is queued, also after an attempt that is tried again, and to observe. So the coroutine keeps no
state: called again after a crash, twice at once, or for a phase long past, it reads where the job is and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from airflow_prominence.driver.jobview import JobView
from airflow_prominence.driver.jobwatch import JobWatch

# Two drivers of one job (a paused triggerer and its successor) must not answer each other's claims in a circle.
_CLAIMS_APART_S = 1.0
# A claim is repeated even when nothing changed, should the one before have been forgotten.
_CLAIM_AGAIN_S = 300.0


class Driving(Protocol):
    """The calls that driving makes."""

    def job(self, job_id: int) -> Awaitable[JobView]: ...  # pragma: no cover

    def claim(self, job_id: int, holder: str) -> Awaitable[JobView]: ...  # pragma: no cover

    def let_go_on(self, job_id: int, phase: str, ti_id: str) -> Awaitable[JobView]: ...  # pragma: no cover


# The phase that a job enters when a phase's task begins.
_ENTERS = {"provision": "ready", "stage_in": "staging_in", "run": "running", "stage_out": "staging_out", "job": "ready"}

UNTIL = ("provision", "stage_in", "run", "stage_out", "release", "job")


def is_over(job: JobView, until: str) -> bool:
    """Whether the job is at the end of this phase, or will never get there."""
    if until == "release":
        return job.ended and job.released
    if job.ended:
        return True
    if until == "provision":
        return job.has_reached("ready")
    if until == "stage_in":
        return job.has_its_input
    if until == "run":
        # Only of a job that holds; else the end of its tasks is the job's.
        return job.tasks_success is not None and (job.tasks_success or not job.will_retry)
    if until in ("stage_out", "job"):
        return False
    raise ValueError(f"unknown phase {until!r}: one of {', '.join(UNTIL)}")


async def drive(
    client: Driving, watch: JobWatch, job: JobView, until: str, tell: Callable[[JobView], None], ti_id: str = ""
) -> JobView:
    """Drive a job until the end of a phase and return it as it is then; ``tell`` sees every change on the way.

    ``job`` is what was last heard of it: whatever has changed since then, the first wait hears of. A job that holds at
    the borders of its phases is let go on for the task instance ``ti_id``.
    """
    loop = asyncio.get_running_loop()
    last_claim = float("-inf")
    job_id = job.id
    tell(job)
    while not is_over(job, until):
        if job.allowed and (until == "release" or not job.may_enter(_ENTERS[until])):
            before = job.version
            job = await client.let_go_on(job_id, until, ti_id)
            if job.version != before:
                tell(job)
                continue
        if job.phase == "queued":
            await asyncio.sleep(max(0.0, last_claim + _CLAIMS_APART_S - loop.time()))
            last_claim = loop.time()
            job = await client.claim(job_id, watch.holder)
            tell(job)
            if job.phase != "queued":
                continue
        changed = watch.changed(job_id, job.version)
        try:
            job = await asyncio.wait_for(changed, _CLAIM_AGAIN_S if job.phase == "queued" else None)
        except asyncio.TimeoutError:
            continue
        tell(job)
    return job
