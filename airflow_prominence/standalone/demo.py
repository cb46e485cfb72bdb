"""First jobs, submitted and watched with the users' own client."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_prominence.dags.names import workflow_dag_id
from airflow_prominence.standalone import control
from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.keeper import recorded
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.progress import Progress
from airflow_prominence.standalone.records import read_json
from airflow_prominence.standalone.settings import own_environment

_COMMAND = (
    'sh -c "echo Hello from job $PROMINENCE_JOB_ID in a container; '
    'echo I have $PROMINENCE_CPUS CPU and $PROMINENCE_MEMORY GB of memory, and I am user $(id -u) in $(pwd); sleep 2"'
)
_SORT = 'sh -c "sort -rn numbers.txt > sorted.txt"'
# A factory's job has its own parameters put in, and two dollar signs become one; a shell reads the rest.
_SQUARE = 'sh -c "echo $$(($n * $n)) > square.txt"'
_SUM = (
    "sh -c 'sum=0; for file in square/*/square.txt; do read square < $file; echo $file: $square; "
    "sum=$((sum + square)); done; echo The sum of the squares is $sum'"
)
_GIVE_UP_SECONDS = 180
_ENDED = {"completed", "failed", "killed", "deleted"}


def client(places: Places, *arguments: str, folder: Path | None = None) -> str:
    """Run the ``prominence`` command with a running stack's variables, in a folder; its output."""
    program = Path(sys.executable).with_name("prominence")
    if not program.exists():
        raise StackError("the prominence client is missing: pip install 'airflow-prominence[standalone]'.")
    environ = {**own_environment(os.environ), **control.read_env(places.env_file)}
    done = subprocess.run(
        [str(program), *arguments],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    # The client says "Error: …" on standard output, with exit code 0 or 1.
    if done.returncode or done.stdout.startswith("Error"):
        said = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["no output"]
        raise StackError(f"prominence {' '.join(arguments[:1])} failed: {said[-1]}")
    return done.stdout


def _described(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    described: Mapping[str, Any] = value[0] if isinstance(value, list) else value
    return described


def run_jobs(places: Places, progress: Progress) -> int:
    """Run a first job, one with data and a workflow, as a user would type them; 0 if all came to their end."""
    with tempfile.TemporaryDirectory(prefix="prominence-demo-") as folder:
        desk = _Desk(places, progress, Path(folder))
        image = control.read_env(places.env_file)["PROMINENCE_DEMO_IMAGE"]
        return max(_hello(desk, image), _data(desk, places.images / "demo.tar"), _workflow(desk, image))


def _hello(desk: _Desk, image: str) -> int:
    job = desk.create("--name", "hello", image, _COMMAND)
    ended = desk.watch(job)
    desk.type("stdout", job)
    return 0 if ended == "completed" else 1


def _data(desk: _Desk, archive: Path) -> int:
    """A private image that is uploaded, an input file that goes with the job, an output file that is fetched."""
    shutil.copyfile(archive, desk.folder / "my-image.tar")
    (desk.folder / "numbers.txt").write_text("".join(f"{number}\n" for number in range(1, 11)), encoding="utf-8")
    desk.type("upload", "--filename", "my-image.tar", "--name", "my-image.tar")
    job = desk.create("--name", "data", "--input", "numbers.txt", "--output", "sorted.txt", "my-image.tar", _SORT)
    if desk.watch(job) != "completed":
        return 1
    desk.type("download", job)
    desk.progress.say(f"$ head -3 sorted.txt\n{_head(desk.folder / 'sorted.txt', 3)}\n")
    return 0


def squares(image: str) -> dict[str, Any]:
    """A workflow that scatters and gathers: four jobs of a sweep, and one that takes what they have written."""

    def job(name: str, cmd: str, **more: Any) -> dict[str, Any]:
        task = {"image": image, "runtime": "singularity", "cmd": cmd}
        return {"name": name, "resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task], **more}

    numbers = {"name": "n", "start": 1, "end": 4, "step": 1}
    return {
        "name": "squares",
        "jobs": [
            job("square", _SQUARE, outputFiles=["square.txt"]),
            job("sum", _SUM, artifacts=[{"url": "square/square.txt"}]),
        ],
        "factories": [{"name": "numbers", "type": "parameterSweep", "jobs": ["square"], "parameters": [numbers]}],
        "dependencies": {"square": ["sum"]},
    }


def _workflow(desk: _Desk, image: str) -> int:
    """A sweep of four jobs and one that gathers what they have made, as a graph in Airflow's UI."""
    (desk.folder / "squares.json").write_text(json.dumps(squares(image), indent=2), encoding="utf-8")
    workflow = desk.submit("run", "squares.json")
    dag = workflow_dag_id(int(workflow), "squares")
    url = control.read_env(desk.places.env_file)["AIRFLOW_URL"]
    desk.progress.say(f"  its graph: {url}/dags/{dag}/runs/workflow-{workflow}")
    ended = desk.watch(workflow, "workflow")
    desk.type("list", "jobs", workflow, "--all")
    desk.type("stdout", workflow, "sum")
    return 0 if ended == "completed" else 1


def _head(path: Path, lines: int) -> str:
    if not path.is_file():
        raise StackError(f"prominence download brought no {path.name}.")
    return "\n".join(path.read_text(encoding="utf-8").splitlines()[:lines])


def _line(described: Mapping[str, Any]) -> str:
    """How a job or a workflow stands, in a line."""
    progress = described.get("progress")
    counts = f", {progress['done']} of {progress['total']} jobs done" if progress else ""
    reason = str(described.get("statusReason", "") or "")
    return f"{described['status']}{counts}{': ' + reason if reason else ''}"


class _Desk:
    """A user's own folder, where commands are shown as they are typed."""

    def __init__(self, places: Places, progress: Progress, folder: Path) -> None:
        self.places = places
        self.progress = progress
        self.folder = folder

    def type(self, *arguments: str) -> str:
        """Run a command and show what it says."""
        self.progress.say(f"\n$ prominence {shlex.join(arguments)}")
        said = client(self.places, *arguments, folder=self.folder)
        # The client counts on one line, which it writes over.
        for line in said.strip().splitlines():
            self.progress.say(line.rpartition("\r")[2].rstrip())
        return said

    def create(self, *arguments: str) -> str:
        """Submit a job; its id."""
        return self.submit("create", *arguments)

    def submit(self, *arguments: str) -> str:
        """Run a command that submits something; its id."""
        said = self.type(*arguments)
        number = re.search(r"\d+", said)
        if number is None:
            raise StackError(f"the client gave no id: {said}")
        return number.group()

    def watch(self, number: str, what: str = "job") -> str:
        """Show the phases of a job, or how many jobs of a workflow are done, as they pass; the status at its end."""
        begun = time.monotonic()
        shown = ""
        while True:
            described = _described(client(self.places, "describe", what, number))
            status, line = str(described["status"]), _line(described)
            if line != shown:
                shown = line
                self.progress.say(f"  {time.monotonic() - begun:5.1f} s  {line}")
            if status in _ENDED:
                return status
            if time.monotonic() - begun > _GIVE_UP_SECONDS:
                raise StackError(
                    f"{what} {number} is still {status} after {_GIVE_UP_SECONDS} s: see the logs in {self.places.logs}."
                )
            time.sleep(0.2)


def say_where(places: Places, to_stop: str) -> None:
    """The addresses of a running stack and how to use it."""
    env = control.read_env(places.env_file)
    print(
        f"\nThe stack is up.\n"
        f"  Airflow UI:  {env['AIRFLOW_URL']}   (user {env['AIRFLOW_USER']}, password {env['AIRFLOW_PASSWORD']})\n"
        f"  REST:        {env['PROMINENCE_URL']}\n"
        f"  In a shell:  . {places.env_file}   then: prominence list\n"
        f"  Logs:        {places.logs}\n"
        f"  To end it:   {to_stop}",
        flush=True,
    )


def status(places: Places) -> int:
    """Say whether the stack is up; 0 if it is."""
    record = read_json(places.status) or {}
    if control.supervisor(places) is None:
        print("The stack is not running.")
        return 3
    print("The stack is up." if record.get("ready") else f"The stack is not ready: {record.get('step', 'starting')}.")
    for name, leader in recorded(places).items():
        print(f"  {name:14} pid {leader.pid}{'' if leader.alive() else '  (dead)'}")
    return 0 if record.get("ready") else 4
