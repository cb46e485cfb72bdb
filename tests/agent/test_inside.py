"""Commands in a real container, bubblewrap's: its walls are the command's walls, and its end is the command's end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from .apiserver import L1, Api
from .conftest import Agent, alive, eventually
from .test_commands import ended, marked, stop
from .test_containers import task

# What a process can be asked about itself and its walls, in a shell's own means.
LOOK = """
echo pwd=$PWD; id; echo $HOME $PROMINENCE_TASK_NUM $PROMINENCE_CONTAINER_RUNTIME
grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status
for kind in user mnt pid ipc net uts cgroup; do readlink /proc/self/ns/$kind; done
"""


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_a_command_is_inside_of_the_tasks_container(api: Api, node: Agent, runtime: str) -> None:
    script = f"{LOOK}\necho kept > f; echo t > /tmp/t; sleep 300 & echo $! > pid; echo up; wait"
    lease = api.assign(L1, [task(script, runtime)])
    api.wait(lambda: lease.streams["stdout"].endswith(b"up\n"), 60)
    seen = api.command(L1, "sh", "-c", LOOK)
    assert ended(api, seen) == (0, None)
    assert bytes(seen.output) + b"up\n" == bytes(lease.streams["stdout"])
    script = 'cat f /tmp/t; kill -0 "$(cat pid)" && echo sees its processes; echo more >> f'
    files = api.command(L1, "sh", "-c", script)
    assert ended(api, files) == (0, None)
    assert bytes(files.output).decode() == "kept\nt\nsees its processes\n"
    host = api.command(L1, "sh", "-c", f"ls {node.state} {node.log} 2>&1; ls -d /root/* 2>&1")
    assert ended(api, host)[0] != 0
    assert b"serve.log\n" not in host.output.replace(b"No such file", b"")
    stop(api, lease)
    node.forget(L1)


def test_what_cannot_be_run_says_so(api: Api, node: Agent) -> None:
    lease = api.assign(L1, [task("echo up; sleep 300")])
    api.wait(lambda: lease.streams["stdout"], 60)
    for argv, code, said in [
        (("no-such-command",), 127, "no-such-command: command not found"),
        (("/no/such/command",), 127, "/no/such/command: command not found"),
        (("/etc/passwd",), 126, "/etc/passwd: Permission denied"),
        (("false",), 1, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("sh", "-c", "kill -9 $PPID; sleep 5"), 137, ""),
    ]:
        order = api.command(L1, *argv)
        assert ended(api, order) == (code, None), argv
        assert bytes(order.output).decode().strip() == said
    stop(api, lease)


def test_nobody_inside_can_look_into_or_hold_up_the_agents_processes(api: Api, node: Agent) -> None:
    # The job waits for the first process of a command, which is a copy of the agent, and tries to read it.
    # What was read counts if the process is still the agent's afterwards: it may have become the command meanwhile.
    # The files of one that has just ended can be opened, too, but there is nothing in them.
    script = """
got() { [ "$(head -c 1 $p/$1 2>/dev/null | wc -c)" = 1 ]; }
ours() { case $(cat $p/comm 2>/dev/null) in prominence*|python*|pytest*) ;; *) return 1;; esac; }
while :; do for p in /proc/[0-9]*; do
  if ours; then
    got environ && ours && echo read environ
    got maps && ours && echo read maps
    ls $p/fd > /dev/null 2>&1 && ls $p/fd/* > /dev/null 2>&1 && ours && echo read fds
    echo tried $(cat $p/comm) > trying; mv trying tried
  fi; done; done"""
    lease = api.assign(L1, [task(f"echo up; {script}")])
    api.wait(lambda: lease.streams["stdout"], 60)
    order = api.command(L1, "sh", "-c", "while ! test -e tried; do sleep 0.1; done; cat tried; sleep 1")
    assert ended(api, order)[0] == 0
    assert bytes(order.output).startswith(b"tried ")
    assert bytes(lease.streams["stdout"]) == b"up\n"
    stop(api, lease)


def test_a_command_is_killed_with_all_that_it_has_started(api: Api, node: Agent) -> None:
    lease = api.assign(L1, [task("echo up; sleep 300")])
    api.wait(lambda: lease.streams["stdout"], 60)
    user = json.loads((node.record(L1) / "user").read_text())["uid"]
    before = _of(user)
    script = 'trap "" TERM; (trap "" TERM; setsid env -i sleep 299 &); (setsid sleep 298 &); echo go; sleep 300'
    for more in ({"timeout_s": 1}, {}):
        order = api.command(L1, "sh", "-c", script, **more)
        api.wait(lambda order=order: order.output)
        if not more:
            with api.lock:
                order.stop = "nobody waits for it"
        assert ended(api, order)[0] is None
        assert not marked(order)
        if os.geteuid() == 0:
            assert _of(user) == before
    gone = api.command(L1, "sh", "-c", '(setsid env -i sh -c "trap : TERM; sleep 299; sleep 299" &); echo done')
    assert ended(api, gone) == (0, None)
    if os.geteuid() == 0:
        eventually(lambda: _of(user) == before)
    assert lease.end is None
    stop(api, lease)


def _of(user: int) -> list[int]:
    """The living processes of a user."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == user and alive(int(entry)):
                found.append(int(entry))
        except OSError:
            continue
    return sorted(found)


@pytest.mark.parametrize("how", ["end", "delete", "walltime", "runner", "guard"])
def test_the_containers_end_is_the_commands(api: Api, node: Agent, how: str) -> None:
    wait = "while ! test -e over; do sleep 0.1; done" if how == "end" else "sleep 300"
    limits = {"walltime_s": 4 if how == "walltime" else 60}
    lease = api.assign(L1, [task(f"echo up; {wait}")], resources=limits)
    api.wait(lambda: lease.streams["stdout"], 60)
    user = json.loads((node.record(L1) / "user").read_text())["uid"]
    script = 'trap "" TERM; (trap "" TERM; setsid env -i sleep 299 &); echo go; sleep 300'
    orders = [api.command(L1, "sh", "-c", script) for _ in range(2)]
    api.wait(lambda: all(order.output for order in orders))
    if how == "end":
        api.command(L1, "touch", "over")
    elif how == "delete":
        with api.lock:
            lease.stop = {"why": "Job deleted by user", "grace_s": 1}
            api.lock.notify_all()
    elif how != "walltime":
        os.kill(node.pid(L1, how), signal.SIGKILL)
    api.wait(lambda: lease.end or lease.lost, 30)
    for order in orders:
        assert ended(api, order) == (None, "Job is not running")
        assert not marked(order)
    if os.geteuid() == 0:
        eventually(lambda: not _of(user))
    eventually(lambda: not list(Path("/sys/fs/cgroup").glob(f"*/**/prominence-{L1}*")))
    node.forget(L1)
