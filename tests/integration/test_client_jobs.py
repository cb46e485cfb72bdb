"""What the real client does with jobs that are there already, and what it says of the sites."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from pathlib import Path

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


def test_a_clone_does_what_the_job_did(stack: Stack, tmp_path: Path) -> None:
    """With its input, labels and policies; whoever's state the first one ended in."""
    document = {
        "name": "twin",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "walltime": 3},
        "labels": {"study": "twins"},
        "inputs": [{"filename": "in.txt", "content": base64.b64encode(b"the input\n").decode()}],
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "cat in.txt", "env": {"A": "b"}}],
        "policies": {"priority": 3},
    }
    (tmp_path / "job.json").write_text(json.dumps(document))
    made = stack.run_cli("run", "job.json", cwd=tmp_path)
    first = int(re.findall(r"id (\d+)", made.stdout)[0])
    stack.run_cli("delete", str(first), cwd=tmp_path)
    done = stack.run_cli("clone", "job", str(first), cwd=tmp_path)
    second = int(re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)[0])
    described = stack.wait(second)
    assert described["status"] == "completed"
    before = stack.describe(first)
    for key in ("name", "labels", "inputs", "tasks", "policies", "resources"):
        assert described[key] == before[key], key
    assert stack.stdout(second) == b"the input\n"
    theirs = stack.run_cli("clone", str(first), token=stack.other_token, cwd=tmp_path)
    assert (theirs.code, theirs.stdout) == (1, "Error: Job does not exist\n")


def test_what_is_free_goes_down_while_a_job_runs(stack: Stack, tmp_path: Path) -> None:
    def free() -> int:
        done = stack.run_cli("resources", cwd=tmp_path)
        [line] = re.findall(r"^(\d+) +\d+ +(\d+) +\d+ +\S+ *$", done.stdout, re.MULTILINE)
        assert int(line[0]) >= int(line[1])
        return int(line[1])

    before = until(lambda: free() or None, 60, 0.5, "something is free")
    made = stack.run_cli("create", stack.image, "sleep 100", cwd=tmp_path)
    job = re.findall(r"id (\d+)", made.stdout)[0]
    stack.wait(int(job), "running")
    assert free() == before - 1
    assert stack.run_cli("delete", job, cwd=tmp_path).stdout == "Success\n"
    until(lambda: free() == before, 30, 0.5, "it is free again")


def test_only_what_its_user_left_there_stays_in_the_queue(stack: Stack, tmp_path: Path) -> None:
    def listed(*options: str) -> list[int]:
        done = stack.run_cli("list", "--name", "queued", *options, cwd=tmp_path)
        return [int(number) for number in re.findall(r"^(\d+) ", done.stdout, re.MULTILINE)]

    jobs = []
    for options in ((), ("--leave-in-queue",)):
        made = stack.run_cli("create", "--name", "queued", *options, stack.image, "true", cwd=tmp_path)
        jobs.append(int(re.findall(r"id (\d+)", made.stdout)[0]))
        stack.wait(jobs[-1])
    gone, left = jobs
    assert listed() == [left]
    refused = stack.run_cli("remove", str(gone), cwd=tmp_path)
    assert (refused.code, refused.stdout) == (1, "Error: Job is no longer in the queue\n")
    theirs = stack.run_cli("remove", str(left), token=stack.other_token, cwd=tmp_path)
    assert (theirs.code, theirs.stdout) == (1, "Error: Job does not exist\n")
    assert listed() == [left]
    assert stack.run_cli("remove", "job", str(left), cwd=tmp_path).stdout == "Job removed from queue\n"
    assert listed() == []
    assert listed("--completed", "-n", "-1") == [gone, left], "what left the queue is not forgotten"


def test_usage_is_by_day_and_by_group(stack: Stack, tmp_path: Path) -> None:
    made = stack.run_airflow("prominence", "token", "grouped", "--groups", "lab-of-usage")
    token = made.stdout.strip()

    def usage(*arguments: str) -> list[str]:
        done = stack.run_cli("usage", *arguments, token=token, cwd=tmp_path)
        assert (done.code, done.stderr) == (0, ""), done
        return re.findall(r"^(\S+)$|Number of jobs +(\d+)", done.stdout, re.MULTILINE)

    day = dt.datetime.now(dt.timezone.utc).date()
    today, tomorrow = day.isoformat(), (day + dt.timedelta(days=1)).isoformat()
    job = stack.submit(
        {
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "true"}],
        },
        token,
    )
    until(lambda: stack.describe(job, token)["status"] == "completed", 60)
    assert usage(today, tomorrow) == [("grouped", ""), ("", "1")]
    assert usage("--group", today, tomorrow) == [("lab-of-usage", ""), ("", "1")]
    assert usage("--all", today, tomorrow) == [("grouped", ""), ("", "1")]
    assert usage("2020-01-01", "2020-01-31") in ([], [("grouped", ""), ("", "0")])
    done = stack.run_cli("usage", tomorrow, today, token=token, cwd=tmp_path)
    assert (done.code, done.stdout) == (1, "Error: end: must not be before start\n")
