"""Sidecars: beside the standard tasks for as long as those run, and no longer."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from .apiserver import L1, Api, Lease
from .conftest import Agent, alive, eventually
from .test_faults import _sleepers, count, starts
from .test_jobs import sh

__all__ = ["starts"]

READY = 'while [ ! -e "$HOME_DIR/up" ]; do sleep 0.02; done; '
UP = 'touch "$HOME_DIR/up"; '
BEAT = """
import os, time
print("side", os.environ["PROMINENCE_TASK_NUM"], flush=True)
open(os.environ["HOME_DIR"] + "/up", "w").close()
with open(os.environ["HOME_DIR"] + "/beats", "a") as beats:
    while True:
        print("x", file=beats, flush=True)
        time.sleep(0.05)
"""
SERVER = """
import http.server, os
os.chdir(os.environ["HOME_DIR"])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
for name, text in (("page", "served"), ("port.part", str(server.server_port))):
    with open(name, "w") as file:
        file.write(text)
os.rename("port.part", "port")
server.serve_forever()
"""
CLIENT = """
import os, time, urllib.request
port = os.environ["HOME_DIR"] + "/port"
while not os.path.exists(port):
    time.sleep(0.02)
print(urllib.request.urlopen(f"http://127.0.0.1:{open(port).read()}/page").read().decode())
"""
LINES = """
import os, sys
for n in range(4000):
    os.write(1, (f"{n} " + sys.argv[1] * (n * 37 % 9000)).encode() + b"\\n")
"""


def sidecar(script: str, **more: object) -> dict[str, object]:
    return sh(script, type="sidecar", **more)


def codes(lease: Lease) -> list[int]:
    assert lease.end is not None
    return [task["exitCode"] for task in lease.end["execution"]["tasks"]]


def told(lease: Lease) -> list[tuple[int, str | None]]:
    """(task, how its end was told) of all reports about tasks."""
    return [(r["data"]["task"], r["data"].get("sidecar")) for r in lease.reports if r["kind"] == "task"]


def test_a_sidecar_runs_beside_all_tasks_and_ends_with_the_last(api: Api, agent: Agent) -> None:
    beside = {"argv": ["python3", "-c", BEAT], "type": "sidecar"}
    first = READY + 'echo "one $PROMINENCE_TASK_NUM"; wc -l < "$HOME_DIR/beats" > "$HOME_DIR/n"; sleep 0.3'
    second = 'test "$(wc -l < "$HOME_DIR/beats")" -gt "$(cat "$HOME_DIR/n")" && echo "two $PROMINENCE_TASK_NUM"'
    lease = api.assign(L1, [sh(first), beside, sh(second)])
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"side 1\none 0\ntwo 2\n"
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", True)
    assert codes(lease) == [0, 143, 0]
    assert told(lease) == [(0, None), (2, None), (1, "ended")]
    beside_usage = lease.end["execution"]["tasks"][1]
    assert beside_usage["wallTimeUsage"] >= 0.3
    assert beside_usage["cpuTimeUsage"] > 0
    assert beside_usage["maxResidentSetSizeKB"] > 0
    assert beside_usage["retries"] == 0
    agent.forget(L1)


def test_all_sidecars_are_started_before_any_task(api: Api, agent: Agent) -> None:
    names = [sidecar(f'touch "$HOME_DIR/s{number}"; sleep 300') for number in range(3)]
    wait = 'until ls "$HOME_DIR/s0" "$HOME_DIR/s1" "$HOME_DIR/s2" >/dev/null 2>&1; do sleep 0.02; done; echo all'
    lease = api.assign(L1, [sh(wait), *names])
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"all\n"
    assert codes(lease) == [0, 143, 143, 143]
    agent.forget(L1)


def test_a_server_beside_a_task(api: Api, agent: Agent) -> None:
    tasks = [{"argv": ["python3", "-c", SERVER], "type": "sidecar"}, {"argv": ["python3", "-c", CLIENT]}]
    lease = api.assign(L1, tasks)
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"served\n"
    assert b"GET /page" in lease.streams["stderr"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_sidecar_that_ends_early_changes_nothing_but_is_told(
    api: Api, agent: Agent, starts: object, code: int
) -> None:
    beside = f'echo x >> "$0"; {UP} exit {code}'
    early = {"argv": ["sh", "-c", beside, str(starts)], "type": "sidecar"}
    lease = api.assign(L1, [early, sh(READY + "sleep 0.5; echo done")], task_retries=3)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", True)
    assert codes(lease) == [code, 0]
    assert told(lease) == [(0, "early"), (1, None)]
    assert count(starts) == 1


def test_a_task_is_tried_again_beside_the_same_sidecar(api: Api, agent: Agent, starts: object) -> None:
    beside = {"argv": ["sh", "-c", 'echo x >> "$0"; sleep 300', str(starts)], "type": "sidecar"}
    lease = api.assign(L1, [beside, sh("exit 2")], task_retries=2)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", False)
    assert codes(lease) == [143, 2]
    assert lease.end["execution"]["tasks"][1]["retries"] == 2
    assert count(starts) == 1


HIDE = "trap '' TERM; (setsid sh -c \"trap '' TERM; env -i setsid sleep {0}1 & sleep {0}2\" &) ; {1} sleep {0}3"


def test_a_sidecar_that_ignores_sigterm_and_forks_twice_leaves_nothing(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sidecar(HIDE.format(32, UP)), sh(READY + "echo task")])
    api.wait(lambda: lease.end, 30)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", True)
    assert codes(lease) == [137, 0]
    assert not _sleepers("321", "322", "323")
    agent.forget(L1)


def test_a_tasks_end_leaves_its_sidecars_processes_alone(api: Api, agent: Agent) -> None:
    # each task's own leftovers go at its end; those of the sidecar, of the same user, do not
    beside = "(setsid sleep 334 &); " + UP + "sleep 335"
    look = {"argv": ["sh", "-c", "ps ax -o args | grep -c '^sleep 33[457]$'"]}
    lease = api.assign(L1, [sidecar(beside), sh(READY + "(setsid sleep 337 &); echo one"), look])
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"one\n2\n"
    assert not _sleepers("334", "335", "337")


def test_walltime_covers_sidecars(api: Api, agent: Agent) -> None:
    tasks = [sidecar(HIDE.format(34, UP)), sidecar("sleep 300"), sh(READY + HIDE.format(35, ""))]
    lease = api.assign(L1, tasks, resources={"walltime_s": 1})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Walltime limit exceeded")
    assert codes(lease) == [137, 143, 137]
    assert not _sleepers("341", "342", "343", "351", "352", "353")


def test_a_deleted_jobs_sidecars_are_gone_within_seconds(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sidecar(HIDE.format(36, UP)), sh(READY + "echo up; sleep 300")])
    api.wait(lambda: lease.streams["stdout"])
    began = time.monotonic()
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 2}
        api.lock.notify_all()
    api.wait(lambda: lease.end)
    assert time.monotonic() - began < 5
    assert lease.end is not None
    assert lease.end["reason"] == "Job deleted by user"
    assert not _sleepers("361", "362", "363")


def test_memory_is_counted_over_all_containers(api: Api, agent: Agent) -> None:
    eat = "x = b'x' * 45_000_000; import time; time.sleep(300)"
    tasks = [{"argv": ["python3", "-c", eat], "type": "sidecar"}, {"argv": ["python3", "-c", eat]}]
    lease = api.assign(L1, tasks, resources={"memory_mb": 80})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job used too much memory")


def test_a_sidecars_files_count_as_the_jobs(api: Api, agent: Agent) -> None:
    fill = 'dd if=/dev/zero of="$HOME_DIR/f" bs=1M count=20 2>/dev/null; sleep 300'
    lease = api.assign(L1, [sidecar(fill), sh("sleep 300")], resources={"disk_mb": 10})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job used too much disk")


def test_a_sidecar_that_cannot_be_started_fails_the_job(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo no"), sidecar("sleep 300"), sidecar("true", image="broken-runtime")])
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", "Unable to execute task(s)")
    (line,) = [report["data"]["message"] for report in lease.reports if report["kind"] == "log"]
    assert line == "sidecar task 2: /nonexistent/runtime: No such file or directory"
    assert not lease.streams["stdout"]


def test_lines_of_sidecars_and_tasks_stay_whole(api: Api, agent: Agent) -> None:
    # one write a line, of lengths that no pipe or buffer divides evenly, some longer than a pipe takes at once
    beside = {"argv": ["python3", "-c", LINES, "s"], "type": "sidecar"}
    lease = api.assign(L1, [beside, {"argv": ["python3", "-c", LINES, "t"]}, sh("sleep 1")])
    api.wait(lambda: lease.end, 60)
    lines = bytes(lease.streams["stdout"]).decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 8000
    torn = [line[:40] for line in lines if not re.fullmatch(r"\d+ (s*|t*)", line)]
    assert not torn
    assert all(len(line.partition(" ")[2]) == int(line.partition(" ")[0]) * 37 % 9000 for line in lines)


def test_output_without_a_newline_is_live_and_complete(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sidecar("printf beside; sleep 300"), sh("sleep 1; printf task; sleep 1")])
    api.wait(lambda: lease.streams["stdout"] == b"beside")
    api.wait(lambda: lease.streams["stdout"] == b"besidetask")
    assert lease.end is None
    api.wait(lambda: lease.end)


@pytest.mark.parametrize("victims", [["guard"], ["guard-1"], ["runner"], ["runner", "guard", "guard-1", "serve"]])
def test_kills(api: Api, agent: Agent, starts: object, victims: list[str]) -> None:
    lease = api.assign(L1, [sidecar(HIDE.format(37, UP)), sh(READY + "echo up; " + HIDE.format(38, ""))])
    api.wait(lambda: lease.streams["stdout"])
    pids = {victim: agent.pid(L1, victim) for victim in victims if victim != "serve"}
    if "serve" in victims:
        agent.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    if "serve" in victims:
        agent.start()
    api.wait(lambda: lease.end or lease.lost, 30)
    if lease.end is not None:
        assert (lease.end["status"], lease.end["reason"]) == ("failed", "Job was evicted")
    eventually(lambda: not _sleepers("371", "372", "373", "381", "382", "383"))
    assert not any(alive(pid) for pid in pids.values())
    agent.forget(L1)
    assert len(agent.processes()) == 1
