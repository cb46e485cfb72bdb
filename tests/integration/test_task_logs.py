"""Each phase's task log tells its part of the job's story in plain lines, as read through Airflow's own REST."""

from __future__ import annotations

import pytest

from tests.integration.rows import Rows
from tests.integration.stacks import Stack

# What the logs of a row's tasks must say; {image}, {job} and {site} are filled in.
TOLD: dict[str, dict[str, tuple[str, ...]]] = {
    "all fine": {
        "provision": ("Job {job} (truth) of demo", "Placed at site {site} on ", "1 CPU, 1 GB memory, 1 GB disk"),
        "stage_in": ("Staging in", "has its input and runs"),
        "run": ("Task 0: image {image} ", "Task 0 ended with exit code 0 in ", "is completed (exit code 0)"),
        "stage_out": ("The output of job {job} (truth) is where it belongs",),
        "release": ("Job {job} (truth) has given its place back",),
        "outcome": ("The run's job ended well",),
    },
    "exit 3": {
        "run": (
            "Task 0: image {image} ",
            "Task 0 ended with exit code 3 in ",
            "Last lines of output:\nsome\nboom",
            "ended with an exit code other than 0 (exit code 3)",
        ),
        "outcome": ("The job is completed without success of all its tasks",),
    },
    "no such image": {
        "provision": ("Placed at site {site} on ",),
        "stage_in": ("Job {job} (truth) failed: ", "127.0.0.1:9/no/such-image:latest"),
        "stage_out": ("Nothing to take away: ",),
    },
    "no such node": {"provision": ("Job {job} (truth) failed: No matching resources",)},
    "walltime": {"run": ("Running", "Job {job} (truth) was killed: Walltime limit exceeded")},
    "deleted while running": {"run": ("Running", "Job {job} (truth) was deleted: Job deleted by user")},
    "deleted while waiting": {"provision": ("Waiting for room", "Job {job} (truth) was deleted: Job deleted by user")},
    "retried": {
        "run": (
            "Attempt 1 of 2 ended as completed; trying again",
            "attempt 2 of 2",
            "ended with an exit code other than 0 (exit code 1)",
        )
    },
}


@pytest.mark.parametrize("name", TOLD)
def test_the_logs_tell_the_story(rows: Rows, stack: Stack, name: str) -> None:
    played = rows[name]
    [(site,)] = stack.psql("SELECT name FROM prominence_site")
    for task, lines in TOLD[name].items():
        told = played.log(task)
        for line in lines:
            assert line.format(job=played.job, image=stack.image, site=site) in told, f"{task}:\n{told}"


def test_the_log_says_how_long_the_pull_took(rows: Rows, stack: Stack) -> None:
    """The first of the jobs at least; the others may find the image in the node's cache."""
    logs = [rows[name].log("run") for name in ("all fine", "exit 3", "exit 3 that counts as success", "retried")]
    assert any(f"Task 0: image {stack.image} taken from the node's cache" in log for log in logs) or any(
        f"Task 0: image {stack.image} pulled in " in log for log in logs
    )
