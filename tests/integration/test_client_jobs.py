"""What the real client does with jobs that are there already, and what it says of the sites."""

from __future__ import annotations

import datetime as dt
import re

from tests.integration.stacks import Stack, until


def test_the_client_clones_a_job(stack: Stack) -> None:
    image = stack.env["PROMINENCE_DEMO_IMAGE"]
    made = stack.run_cli("create", "--name", "model", image, "true", cwd=stack.places.home)
    first = int(re.findall(r"id (\d+)", made.stdout)[0])
    done = stack.run_cli("clone", str(first), cwd=stack.places.home)
    assert done.code == 0, done
    second = int(re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)[0])
    assert second > first
    shown = stack.run_cli("describe", str(second), cwd=stack.places.home)
    assert '"name": "model"' in shown.stdout
    refused = stack.run_cli("clone", "999999999", cwd=stack.places.home)
    assert (refused.code, refused.stdout.strip()) == (1, "Error: Job does not exist")


def test_the_client_lists_resources(stack: Stack) -> None:
    done = stack.run_cli("resources", cwd=stack.places.home)
    assert (done.code, done.stderr) == (0, "")
    assert re.search(r"^\d+ +\d+ +\d+ +\d+ +\S+ *$", done.stdout, re.MULTILINE), done.stdout


def test_the_client_removes_a_job_from_the_queue(stack: Stack) -> None:
    def listed() -> str:
        return stack.run_cli("list", "--name", "kept", cwd=stack.places.home).stdout

    image = stack.env["PROMINENCE_DEMO_IMAGE"]
    made = stack.run_cli("create", "--leave-in-queue", "--name", "kept", image, "true", cwd=stack.places.home)
    job = re.findall(r"id (\d+)", made.stdout)[0]
    stack.wait(int(job))
    shown = listed()
    assert f"{job} " in shown
    assert "completed" in shown
    done = stack.run_cli("remove", job, cwd=stack.places.home)
    assert (done.code, done.stdout.strip()) == (0, "Job removed from queue")
    assert f"{job} " not in listed()
    refused = stack.run_cli("remove", job, cwd=stack.places.home)
    assert (refused.code, refused.stdout.strip()) == (1, "Error: Job is no longer in the queue")


def test_the_client_tells_usage(stack: Stack) -> None:
    day = dt.datetime.now(dt.timezone.utc).date().isoformat()
    job = stack.submit(
        {
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "true"}],
        },
        stack.other_token,
    )
    until(lambda: stack.describe(job, stack.other_token)["status"] == "completed", 60)
    done = stack.run_cli("usage", day, day, token=stack.other_token, cwd=stack.places.home)
    assert (done.code, done.stderr) == (0, "")
    assert re.search(r"^demo2\n +Number of jobs +[1-9]\d*\n +CPU time \(CPU hours\) +\d+\n", done.stdout), done.stdout
    grouped = stack.run_cli("usage", "--group", "--all", day, day, cwd=stack.places.home)
    assert (grouped.code, grouped.stderr) == (0, "")
    refused = stack.run_cli("usage", "yesterday", day, cwd=stack.places.home)
    assert (refused.code, refused.stdout) == (1, "Error: start: must be a date in the form YYYY-MM-DD\n")
