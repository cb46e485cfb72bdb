"""A job's story in its tasks' logs: one line a change, each phase its own chapter."""

from __future__ import annotations

from collections.abc import Callable

from airflow_prominence.driver.jobview import JobEvent, JobView

_CHAPTERS = ("provision", "stage_in", "run", "stage_out", "release")

# What happens when the output of a job is uploaded again after its end.
UPLOAD = "upload"

# Kinds of events that open a chapter; all others are told in the chapter in which they happen.
_OPENS = {
    "stage_in": "stage_in",
    "pulled": "run",
    "running": "run",
    "task": "run",
    "stage_out": "stage_out",
    "released": "release",
}


class Story:
    """Tells a job's story from the point of view of one phase's task.

    What belongs to the phase is told even if it happened before the task began (a short job is over before its tasks
    have been scheduled); of attempts after the first, all that has been driven through.
    """

    def __init__(self, phase: str, write: Callable[[str], None]) -> None:
        self._phase = phase
        self._write = write
        self._told: set[JobEvent] = set()
        self._headed = 0

    def tell(self, job: JobView) -> None:
        """Write what is new."""
        self._tell_head(job)
        for event, chapter in chapters(job.events):
            if event in self._told or event.attempt < job.first_attempt:
                continue
            if not self._is_mine(event, chapter):
                continue
            self._told.add(event)
            for line in event.message.splitlines() or [event.kind]:
                self._write(line)

    def _tell_head(self, job: JobView) -> None:
        if job.attempt == self._headed:
            return
        self._headed = job.attempt
        attempt = f", attempt {job.attempt} of {job.max_attempts}" if job.max_attempts > 1 else ""
        place = f", at {job.site} on {', '.join(job.nodes)}" if job.site and job.nodes else ""
        image = f", image {job.image}" if job.image else ""
        self._write(f"{job.title} of {job.owner}{attempt}{place}{image}")

    def _is_mine(self, event: JobEvent, chapter: str) -> bool:
        if self._phase == "job":
            return True
        if chapter == self._phase:
            return True
        return event.attempt > 1 and _CHAPTERS.index(chapter) < _CHAPTERS.index(self._phase)


def chapters(events: tuple[JobEvent, ...]) -> list[tuple[JobEvent, str]]:
    """Say of each event in which phase it happened."""
    told: list[tuple[JobEvent, str]] = []
    attempt, chapter = 0, _CHAPTERS[0]
    for event in events:
        if event.kind == UPLOAD:
            continue  # a story of its own, told where it was asked for
        if event.attempt != attempt:
            attempt, chapter = event.attempt, _CHAPTERS[0]
        opened = _OPENS.get(event.kind)
        if opened is not None and _CHAPTERS.index(opened) > _CHAPTERS.index(chapter):
            chapter = opened
        told.append((event, chapter))
    return told
