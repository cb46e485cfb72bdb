"""A first job, submitted and watched with the users' own client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_GIVE_UP_SECONDS = 180
_ENDED = {"completed", "failed", "killed", "deleted"}


def client(places: Places, *arguments: str) -> str:
    """Run the ``prominence`` command with a running stack's variables; its output."""
    program = Path(sys.executable).with_name("prominence")
    if not program.exists():
        raise StackError("the prominence client is missing: pip install 'airflow-prominence[standalone]'.")
    environ = {**own_environment(os.environ), **control.read_env(places.env_file)}
    done = subprocess.run(
        [str(program), *arguments], env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
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


def run_job(places: Places, progress: Progress) -> int:
    """Submit a job, show its phases as they pass, print its standard output; the exit code is the job's."""
    image = control.read_env(places.env_file)["PROMINENCE_DEMO_IMAGE"]
    progress.say(f"\n$ prominence create --name hello {image} '{_COMMAND}'")
    said = client(places, "create", "--name", "hello", image, _COMMAND).strip()
    progress.say(said)
    number = re.search(r"\d+", said)
    if number is None:
        raise StackError(f"the client gave no job id: {said}")
    job = number.group()
    begun = time.monotonic()
    shown = None
    while True:
        described = _described(client(places, "describe", job))
        status, reason = str(described["status"]), str(described.get("statusReason", "") or "")
        if (status, reason) != shown:
            shown = (status, reason)
            progress.say(f"  {time.monotonic() - begun:5.1f} s  {status}{': ' + reason if reason else ''}")
        if status in _ENDED:
            break
        if time.monotonic() - begun > _GIVE_UP_SECONDS:
            raise StackError(f"job {job} is still {status} after {_GIVE_UP_SECONDS} s: see the logs in {places.logs}.")
        time.sleep(0.2)
    progress.say(f"\n$ prominence stdout {job}\n{client(places, 'stdout', job).rstrip()}\n")
    return 0 if shown[0] == "completed" else 1


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
