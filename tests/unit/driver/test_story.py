from __future__ import annotations

from typing import Any

from airflow_prominence.driver import JobView
from airflow_prominence.driver.story import Story
from tests.fakes.internal_api import FakeJob

_EVENTS = [
    (1, "queued", "Waiting for a place"),
    (1, "placed", "Placed at local on node-1"),
    (1, "stage_in", "Bringing 1 input file"),
    (1, "pulled", "Image busybox pulled in 2.1 s"),
    (1, "running", "Task 0 starts"),
    (1, "task", "Task 0 ended with exit code 1 after 0.2 s"),
    (1, "log", "last lines of output:\nboom\n"),
    (1, "stage_out", "Taking the output away"),
]


def _view(events: list[tuple[int, str, str]], **fields: Any) -> JobView:
    told = [
        {"time": float(n), "attempt": attempt, "kind": kind, "message": message}
        for n, (attempt, kind, message) in enumerate(events)
    ]
    return JobView.from_json(FakeJob(1, events=told, **fields).view())


def _tell(phase: str, *views: JobView) -> list[str]:
    lines: list[str] = []
    story = Story(phase, lines.append)
    for view in views:
        story.tell(view)
    return lines


def test_each_phase_tells_its_own_chapter_also_of_a_job_long_over() -> None:
    over = _view(_EVENTS, phase="done", outcome="completed", site="local", nodes=["node-1"])
    head = "Job 1 (calc) of alice, at local on node-1, image busybox"
    assert _tell("provision", over) == [head, "Waiting for a place", "Placed at local on node-1"]
    assert _tell("stage_in", over) == [head, "Bringing 1 input file"]
    assert _tell("run", over) == [
        head,
        "Image busybox pulled in 2.1 s",
        "Task 0 starts",
        "Task 0 ended with exit code 1 after 0.2 s",
        "last lines of output:",
        "boom",
    ]
    assert _tell("stage_out", over) == [head, "Taking the output away"]


def test_one_line_a_change_and_none_a_poll() -> None:
    first = _view(_EVENTS[:5], phase="running", site="local", nodes=["node-1"])
    then = _view(_EVENTS[:6], phase="running", site="local", nodes=["node-1"])
    assert _tell("run", first, first, first) == _tell("run", first)
    assert _tell("run", first, then, then) == [*_tell("run", first), "Task 0 ended with exit code 1 after 0.2 s"]


def test_a_new_attempt_is_told_by_whoever_drives_it() -> None:
    events = [
        *_EVENTS[:6],
        (2, "queued", "Tried again"),
        (2, "placed", "Placed at local on node-2"),
        (2, "running", "Go"),
    ]
    again = _view(events, phase="running", attempt=2, max_attempts=2, site="local", nodes=["node-2"])
    lines = _tell("run", again)
    assert lines[0] == "Job 1 (calc) of alice, attempt 2 of 2, at local on node-2, image busybox"
    assert lines[-3:] == ["Tried again", "Placed at local on node-2", "Go"]


def test_a_cleared_jobs_story_begins_with_its_new_attempt() -> None:
    again = [(2, "cleared", "Cleared in Airflow: trying again, attempt 2"), (2, "placed", "Placed at local on node-2")]
    view = _view([*_EVENTS, *again], phase="ready", attempt=2, max_attempts=2)
    head = "Job 1 (calc) of alice, attempt 2 of 2, image busybox"
    assert _tell("provision", view) == _tell("run", view) == [head, again[0][2], again[1][2]]
