"""What the real client does with a job while it runs: `exec`, `snapshot`, `stdout -t` and `stderr -t`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_prominence.standalone import settings
from tests.integration.stacks import Ended, Stack, until

TASK = """
mkdir -p out/deep; echo one > out/a; echo two > out/deep/b; ln -s /etc/passwd link; echo kept > here; echo $$ > pid
echo up; while ! test -e over; do sleep 0.2; done; echo over
"""


def start(stack: Stack, script: str = TASK, **task: Any) -> int:
    """A job that is up."""
    cmd = f"sh -c {shlex.quote(script)}"
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": cmd, **task}],
    }
    job = stack.submit(document)
    until(lambda: stack.describe(job)["status"] == "running", 60)
    until(lambda: b"up\n" in stack.stdout(job), 30)
    return job


@pytest.fixture
def job(stack: Stack, client: httpx.Client) -> Iterator[int]:
    number = start(stack)
    yield number
    client.delete(f"/jobs/{number}")


@pytest.fixture
def prominence(stack: Stack, tmp_path: Path) -> Callable[..., Ended]:
    """The client, in a folder of its own."""

    def run(*arguments: str, **more: Any) -> Ended:
        return stack.run_cli(*arguments, cwd=tmp_path, **more)

    return run


def test_exec_is_inside_of_the_task(stack: Stack, prominence: Callable[..., Ended], job: int) -> None:
    def say(command: str) -> str:
        done = prominence("exec", str(job), command)
        assert (done.code, done.stderr) == (0, ""), done
        return done.stdout

    assert say("cat here") == "kept\n\n"
    assert say("pwd") == "/home/user\n\n"
    assert say("printf '%s|' 'two words' '' '$HOME'") == "two words||$HOME|\n"
    assert say("""sh -c 'echo "a\\,b"; echo err >&2'""") == "a,b\nerr\n\n"
    assert say("sh -c 'kill -0 $(cat pid) && echo same processes'") == "same processes\n\n"
    assert say("sh -c 'echo $PROMINENCE_JOB_ID $HOME'") == f"{job} /home/user\n\n"
    assert say("sh -c 'echo more >> here'") == "\n"
    assert say("cat here") == "kept\nmore\n\n"
    assert say("true") == "\n"
    shown = stack.describe(job)["execution"]["commands"]
    assert [one["command"] for one in shown][:2] == ["cat here", "pwd"]
    assert shown[2]["command"] == "printf '%s|' 'two words' '' '$HOME'"


def test_exec_ends_a_job_that_waits(stack: Stack, prominence: Callable[..., Ended], job: int) -> None:
    assert prominence("exec", str(job), "touch over").code == 0
    assert stack.wait(job)["status"] == "completed"
    assert stack.stdout(job) == b"up\nover\n"
    done = prominence("exec", str(job), "ls")
    assert (done.code, done.stdout) == (1, "Error: Unable to execute command: Job is not running\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "Unable to execute command: it ended with exit code 1"),
        ("sh -c 'echo a; echo no such thing >&2; exit 7'", "it ended with exit code 7: no such thing"),
        ("no-such-command", "it ended with exit code 127: no-such-command: command not found"),
        ("", "A command to execute must be specified"),
    ],
)
def test_exec_says_what_failed(prominence: Callable[..., Ended], job: int, command: str, said: str) -> None:
    done = prominence("exec", str(job), command)
    assert done.code == 1
    assert done.stdout.startswith("Error: Unable to execute command: ")
    assert done.stdout.endswith(said + "\n")


def test_exec_and_snapshot_are_the_owners(
    stack: Stack, prominence: Callable[..., Ended], job: int, tmp_path: Path
) -> None:
    done = prominence("exec", str(job), "ls", token=stack.other_token)
    assert (done.code, done.stdout) == (1, "Error: Unable to execute command: Job does not exist\n")
    done = prominence("snapshot", str(job), "here", token=stack.other_token)
    assert (done.code, done.stdout) == (
        1,
        "Creating snapshot...\nError: Unable to create snapshot: Job does not exist\n",
    )
    assert not (tmp_path / "snapshot.tgz").exists()


def test_output_of_a_command_is_streamed(stack: Stack, client: httpx.Client, job: int) -> None:
    script = "for i in 1 2 3 4 5 6; do echo $i; sleep 1; done; exit 3"
    began, seen = time.monotonic(), []
    with client.stream("POST", f"/jobs/{job}/exec", json={"command": ["sh", "-c", script]}, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            seen.append((line, time.monotonic() - began))
    assert [line for line, _ in seen] == [
        *"123456",
        "Unable to execute command: it ended with exit code 3",
    ]
    assert seen[0][1] < 4.5
    assert seen[5][1] - seen[3][1] > 1.5


def _sleepers(seconds: str) -> list[int]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            found.append(int(entry))
    return found


@pytest.mark.parametrize("how", ["silent", "streaming"])
def test_a_client_that_hangs_up_ends_its_command(stack: Stack, client: httpx.Client, job: int, how: str) -> None:
    seconds = f"{86400 + os.getpid()}.{len(how)}"
    script = f"{'' if how == 'silent' else 'echo go; '}sleep {seconds}"

    def listen() -> None:
        body = {"command": ["sh", "-c", script]}
        with client.stream("POST", f"/jobs/{job}/exec", json=body, timeout=4) as answer:
            answer.read()

    with pytest.raises(httpx.ReadTimeout):
        listen()
    until(lambda: not _sleepers(seconds), 25, what="the command's processes end")
    assert stack.describe(job)["status"] == "running"


def test_nothing_of_a_command_outlives_its_server_for_long(stack: Stack, client: httpx.Client, job: int) -> None:
    seconds = f"{86400 + os.getpid()}.9"

    def listen() -> None:
        body = {"command": ["sh", "-c", f"echo go; sleep {seconds}"]}
        with client.stream("POST", f"/jobs/{job}/exec", json=body, timeout=60) as answer:
            assert answer.status_code == 200
            assert _sleepers(seconds)
            stack.restart("api-server")
            answer.read()

    with pytest.raises(httpx.HTTPError):
        listen()
    until(lambda: not _sleepers(seconds), 40, what="the command's processes end")
    until(lambda: client.post(f"/jobs/{job}/exec?command=cat,here").text == "kept\n", 30)


def test_snapshots(prominence: Callable[..., Ended], job: int, tmp_path: Path) -> None:
    def members(path: str) -> dict[str, tarfile.TarInfo]:
        done = prominence("snapshot", str(job), path)
        assert (done.code, done.stderr) == (0, ""), done
        assert done.stdout.startswith('Creating snapshot...\nDownloading file "snapshot.tgz"\n')
        assert "[" + "=" * 50 + "]" in done.stdout
        with tarfile.open(tmp_path / "snapshot.tgz") as archive:
            assert archive.getmembers()
            return {member.name: member for member in archive}

    assert list(members("here")) == ["here"]
    assert list(members("out")) == ["out", "out/a", "out/deep", "out/deep/b"]
    with tarfile.open(tmp_path / "snapshot.tgz") as archive:
        found = archive.extractfile("out/deep/b")
        assert found is not None
        assert found.read() == b"two\n"
    assert list(members("/home/user/out/a")) == ["home/user/out/a"]
    assert members(".")["./link" if "./link" in members(".") else "link"].issym()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "/home/user/nothing: no such file or directory"),
        ("link", "/home/user/link: leads out of the job's folders"),
        ("../../etc", "/home/user/../../etc: leads out of the job's folders"),
        ("/etc/passwd", "Invalid path"),
        ("", "A path to snapshot must be specified"),
    ],
)
def test_no_snapshot(prominence: Callable[..., Ended], job: int, tmp_path: Path, path: str, said: str) -> None:
    done = prominence("snapshot", str(job), path)
    sentence = f"Creating snapshot...\nError: Unable to create snapshot: {said}\n"
    assert (done.code, done.stdout) == (1, sentence)
    assert not (tmp_path / "snapshot.tgz").exists()


def test_a_snapshot_of_a_job_that_has_ended(stack: Stack, prominence: Callable[..., Ended], job: int) -> None:
    prominence("exec", str(job), "touch over")
    stack.wait(job)
    done = prominence("snapshot", str(job), "here")
    assert (done.code, done.stdout) == (
        1,
        "Creating snapshot...\nError: Unable to create snapshot: Job is not running\n",
    )


def test_output_is_followed_while_the_job_runs(stack: Stack, tmp_path: Path) -> None:
    """With -t from before its start; the client asks each other second and not once more after the end."""
    script = "for i in 1 2 3 4 5 6; do echo out $i; echo err $i >&2; sleep 1; done; sleep 4"
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": f"sh -c '{script}'"}],
    }
    job = stack.submit(document)
    own = settings.own_environment(os.environ)
    environ = {**own, "PROMINENCE_URL": stack.url, "PROMINENCE_TOKEN": stack.token, "HOME": str(tmp_path)}

    def argv(stream: str) -> list[str]:
        return [str(Path(sys.executable).parent / "prominence"), stream, str(job)]

    def follow(stream: str) -> list[tuple[str, float]]:
        with subprocess.Popen(
            [*argv(stream), "-t"],
            env={**environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as tail:
            assert tail.stdout is not None
            assert tail.stderr is not None
            came = [(line, time.monotonic()) for line in tail.stdout]
            errors = tail.stderr.read()
        assert (tail.returncode, errors) == (0, "")
        return came

    with ThreadPoolExecutor(2) as pool:
        both = dict(zip(("stdout", "stderr"), pool.map(follow, ("stdout", "stderr")), strict=True))
    assert stack.wait(job)["status"] == "completed"
    for stream, came in both.items():
        short = stream.removeprefix("std")
        assert [line for line, _ in came] == [f"{short} {number}\n" for number in range(1, 7)]
        assert came[-1][1] - came[0][1] > 3
        whole = subprocess.run(argv(stream), env=environ, capture_output=True, text=True)
        assert re.fullmatch(rf"({short} \d\n){{6}}\n", whole.stdout), whole
