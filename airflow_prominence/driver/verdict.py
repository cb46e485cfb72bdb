"""How a phase's task ends, given the job: pure, so that the table of cases can be read and tested as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_prominence.driver.jobview import JobView

End = Literal["success", "failed", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """A task's end and the sentence that explains it."""

    end: End
    sentence: str


def verdict(job: JobView, phase: str) -> Verdict:
    """Return how the task of ``phase`` ends, for a job of which ``drive`` says that this phase is over."""
    if phase == "provision":
        return _reached(job, "ready", f"has its place at {_place(job)}")
    if phase == "stage_in":
        if job.holding == "running":
            return Verdict("success", f"{job.title} has its input.")
        return _reached(job, "running", "has its input and runs")
    if phase in ("run", "job"):
        return _ran(job)
    if phase == "stage_out":
        return _staged_out(job)
    if phase == "release":
        if job.allowed and job.status != "completed":
            return Verdict("success", f"{_end_of(job)[:-1]}; its place is given back.")
        return Verdict("success", f"{job.title} has given its place back.")
    raise ValueError(f"no verdict for phase {phase!r}")


def _reached(job: JobView, wanted: str, done: str) -> Verdict:
    if job.has_reached(wanted):
        return Verdict("success", f"{job.title} {done}.")
    return Verdict("failed", _end_of(job))


def _ran(job: JobView) -> Verdict:
    if not job.ended:
        if job.tasks_success:
            return Verdict("success", f"The tasks of {_lower(job)} ended well.")
        return Verdict("failed", f"A task of {_lower(job)} ended with an exit code other than 0{_codes(job)}.")
    if job.status == "completed" and job.node_success:
        return Verdict("success", f"{job.title} is completed{_codes(job)}.")
    if job.status == "completed":
        return Verdict("failed", f"A task of {_lower(job)} ended with an exit code other than 0{_codes(job)}.")
    return Verdict("failed", _end_of(job))


def _staged_out(job: JobView) -> Verdict:
    if job.node_success:
        return Verdict("success", f"The output of {_lower(job)} is where it belongs.")
    # The reasons of the manual all begin so, but for one, which says "to stageout output".
    if job.status == "failed" and ("stageout" in job.reason.lower() or "stage-out" in job.reason.lower()):
        return Verdict("failed", _end_of(job))
    if job.has_reached("staging_out"):
        return Verdict("success", f"The output of {_lower(job)} is where it belongs.")
    return Verdict("skipped", f"Nothing to take away: {_end_of(job)}")


def _end_of(job: JobView) -> str:
    return f"{job.title} {_ENDS.get(job.status, f'is {job.status}')}{': ' + job.reason if job.reason else ''}."


_ENDS = {
    "completed": "is completed",
    "failed": "failed",
    "killed": "was killed",
    "deleted": "was deleted",
}


def _place(job: JobView) -> str:
    site = job.site or "a site"
    return f"{site} ({', '.join(job.nodes)})" if job.nodes else site


def _lower(job: JobView) -> str:
    return "j" + job.title[1:]


def _codes(job: JobView) -> str:
    if not job.exit_codes:
        return ""
    if len(job.exit_codes) == 1:
        return f" (exit code {job.exit_codes[0]})"
    return f" (exit codes {', '.join(str(code) for code in job.exit_codes)})"
