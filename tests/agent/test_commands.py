"""Commands and snapshots of running jobs: each is carried out once, is heard of as it goes, and leaves nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .apiserver import L1, L2, Api, Lease, Order
from .conftest import Agent, alive, eventually
from .test_jobs import sh


def running(api: Api, script: str = "", **changes: Any) -> Lease:
    """A job that says that it is up, and waits."""
    lease = api.assign(L1, [sh(f"{script}\necho up; sleep 300")], **changes)
    api.wait(lambda: lease.streams["stdout"].endswith(b"up\n"))
    return lease


def stop(api: Api, lease: Lease) -> None:
    """Delete the job, and wait for its end."""

    def told() -> bool:
        # again and again, since the poll of a service that was killed may have swallowed it
        lease.stop = {"why": "Job deleted by user", "grace_s": 0}
        return lease.end is not None

    api.wait(told)


def ended(api: Api, order: Order, timeout: float = 20) -> tuple[int | None, str | None]:
    api.wait(lambda: order.end, timeout)
    assert order.end is not None
    return order.end["exit_code"], order.end["error"]


@pytest.fixture
def job(api: Api, agent: Agent) -> Iterator[Lease]:
    lease = running(api, 'echo kept > "$HOME_DIR/f"')
    yield lease
    if lease.end is None:
        stop(api, lease)


def marked(order: Order) -> list[int]:
    """The living processes of a command."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            try:
                words = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"PROMINENCE_COMMAND={order.given['id']}".encode() in words:
                found.append(int(entry))
    return found


def test_a_command_runs_beside_the_task(api: Api, agent: Agent, job: Lease) -> None:
    order = api.command(L1, "sh", "-c", 'cat f; echo "$PROMINENCE_JOB_ID $HOME"; echo err >&2; id -u; exit 3')
    assert ended(api, order) == (3, None)
    kept, env, err, uid = bytes(order.output).decode().splitlines()
    assert (kept, env, err) == ("kept", "12 /home/user", "err")
    task = agent.pid(L1, "guard")
    assert uid == str(os.stat(f"/proc/{_child(task)}").st_uid)
    assert order.times_given == 1


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_words_arrive_as_they_are(api: Api, agent: Agent, job: Lease) -> None:
    words = ["two  words", "", "a,b", "'\"", "$(id) `id` $HOME", "é\n*", "-n", "\\,"]
    order = api.command(L1, "printf", "%s|", *words)
    assert ended(api, order) == (0, None)
    assert bytes(order.output).decode() == "|".join(words) + "|"


def test_output_comes_as_it_is_written(api: Api, agent: Agent, job: Lease) -> None:
    order = api.command(L1, "sh", "-c", "echo one; sleep 1.5; printf two; sleep 300")
    api.wait(lambda: bytes(order.output) == b"one\ntwo")
    assert order.written[1] - order.written[0] > 1
    api.wait(lambda: order.beats >= 2)
    with api.lock:
        order.stop = "nobody waits for it"
    assert ended(api, order, 5) == (None, "nobody waits for it")
    eventually(lambda: not marked(order))


def test_a_command_that_takes_too_long_is_killed_with_all_its_processes(api: Api, agent: Agent, job: Lease) -> None:
    script = 'trap "" TERM; (trap "" TERM; setsid sleep 300 &) ; sleep 300 & echo go; wait'
    order = api.command(L1, "sh", "-c", script, timeout_s=1.5)
    api.wait(lambda: order.output)
    assert len(marked(order)) >= 3
    assert ended(api, order) == (None, "it did not end within 1.5 s")
    assert not marked(order)
    assert job.end is None


def test_what_a_command_leaves_behind_ends_with_it(api: Api, agent: Agent, job: Lease) -> None:
    order = api.command(L1, "sh", "-c", "(setsid sleep 300 &); sleep 300 & echo done")
    assert ended(api, order) == (0, None)
    assert bytes(order.output) == b"done\n"
    eventually(lambda: not marked(order))


def test_a_flood_is_cut_and_ended(api: Api, agent: Agent, job: Lease) -> None:
    order = api.command(L1, "yes", limit=300_000)
    assert ended(api, order) == (None, "it wrote more than 0.286102 MB")
    assert len(order.output) == 300_000
    assert not marked(order)


def test_a_killed_service_does_not_end_or_repeat_a_command(api: Api, agent: Agent, job: Lease, folder: Path) -> None:
    count = folder / "count"
    count.touch()
    count.chmod(0o666)
    api.set(repeat_starts=True)
    order = api.command(L1, "sh", "-c", f"echo x >> {count}; echo one; sleep 2; echo two")
    api.wait(lambda: order.output)
    agent.kill()
    agent.start()
    api.wait(lambda: len(api.registrations) == 2)
    assert ended(api, order) == (0, None)
    eventually(lambda: order.times_given >= 3, what="it is given again and again")
    assert bytes(order.output) == b"one\ntwo\n"
    assert count.read_text() == "x\n"


@pytest.mark.parametrize("victims", [["command"], ["guard"], ["command", "guard"], ["command", "guard", "serve"]])
def test_killed_processes_of_ours_take_the_command_along(
    api: Api, agent: Agent, job: Lease, victims: list[str]
) -> None:
    order = api.command(L1, "sh", "-c", 'trap "" TERM; (trap "" TERM; setsid sleep 300 &); echo go; sleep 300')
    api.wait(lambda: order.output)
    record = agent.record(L1) / "commands" / order.given["id"]
    command = int(json.loads((record / "pid").read_text())["pid"])
    pids = {"command": command, "guard": _child(command)}
    for victim in victims:
        if victim == "serve":
            agent.kill()
        else:
            os.kill(pids[victim], signal.SIGKILL)
    if "serve" in victims:
        agent.start()
    assert ended(api, order) == (None, "the command's process on the node was lost")
    eventually(lambda: not marked(order))
    assert job.end is None


def test_an_order_that_was_recorded_and_never_begun_is_lost(api: Api, agent: Agent, job: Lease) -> None:
    agent.kill()
    order = api.command(L1, "echo", "never")
    record = agent.record(L1) / "commands" / order.given["id"]
    record.mkdir(parents=True)
    (record / "order.json").write_text(json.dumps(order.given))
    agent.start()
    assert ended(api, order) == (None, "the command's process on the node was lost")
    assert not order.output


def test_an_outage_of_the_api_is_waited_for(api: Api, agent: Agent, job: Lease) -> None:
    order = api.command(L1, "sh", "-c", "echo one; sleep 1; echo two; sleep 1; echo three")
    api.wait(lambda: order.output)
    api.set(down=True)
    time.sleep(3)
    api.set(down=False)
    assert ended(api, order) == (0, None)
    assert bytes(order.output) == b"one\ntwo\nthree\n"


def test_lost_answers_repeat_nothing(api: Api, agent: Agent, job: Lease) -> None:
    api.set(drop_after_body=2)
    order = api.command(L1, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.1; done")
    assert ended(api, order) == (0, None)
    assert bytes(order.output) == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"


def test_no_command_without_a_running_task(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo up")])
    api.wait(lambda: lease.end)
    eventually((agent.record(L1) / "ended").exists)
    assert ended(api, api.command(L1, "echo", "x")) == (None, "Job is not running")
    assert ended(api, api.command(L2, "echo", "x")) == (None, "Job is not running")
    assert ended(api, api.command("../x", "echo", "x")) == (None, "lease: '../x' is not a plain name")
    assert ended(api, api.command(L1, "echo", kind="dance"))[1] == "kind: 'dance' is not supported by this agent"


def test_a_command_finds_the_next_task(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo one; sleep 1"), {"argv": ["sh", "-c", "echo two; sleep 300"], "env": {"N": "2"}}])
    api.wait(lambda: lease.streams["stdout"] == b"one\n")
    first = api.command(L1, "sh", "-c", "echo in $PROMINENCE_TASK_NUM; sleep 300")
    assert ended(api, first) == (None, "Job is not running")
    assert bytes(first.output) == b"in 0\n"
    api.wait(lambda: lease.streams["stdout"] == b"one\ntwo\n")
    second = api.command(L1, "sh", "-c", "echo $PROMINENCE_TASK_NUM $N")
    assert ended(api, second) == (0, None)
    assert bytes(second.output) == b"1 2\n"
    stop(api, lease)


@pytest.mark.parametrize("how", ["delete", "walltime"])
def test_a_jobs_end_ends_its_commands_and_nothing_is_left(api: Api, agent: Agent, how: str) -> None:
    lease = running(api, resources={"walltime_s": 3 if how == "walltime" else 60})
    user = int(json.loads((agent.record(L1) / "user").read_text())["uid"])
    script = 'trap "" TERM; (trap "" TERM; setsid env -i sleep 300 &); echo go; sleep 300'
    orders = [api.command(L1, "sh", "-c", script) for _ in range(3)]
    api.wait(lambda: all(order.output for order in orders))
    late = []
    if how == "delete":
        with api.lock:
            lease.stop = {"why": "Job deleted by user", "grace_s": 0.2}
            api.lock.notify_all()
    while lease.end is None:
        late.append(api.command(L1, "sh", "-c", script))
        time.sleep(0.3)
    for order in [*orders, *late]:
        assert ended(api, order)[1] is not None
    assert lease.end["status"] == "killed"
    for order in [*orders, *late]:
        assert not marked(order)
    if os.geteuid() == 0:
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _uid(pid) == user and alive(pid)]
        assert not left
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/**/prominence-{L1}*")]
    assert not groups
    agent.forget(L1)


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


# -- snapshots


def members(api: Api, order: Order) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(api.uploads[order.given["id"]]), mode="r:gz") as archive:
        return {member.name: member for member in archive}


def content(api: Api, order: Order, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(api.uploads[order.given["id"]]), mode="r:gz") as archive:
        found = archive.extractfile(name)
        assert found is not None
        return found.read()


TREE = """
cd "$HOME_DIR"
mkdir -p out/deep "with space" && echo one > out/a && echo two > out/deep/b && echo three > "with space/ü"
ln -s out latest && ln -s deep/b out/inner && ln -s /etc out/etc && ln -s /etc/passwd passwd && ln -s ../.. up
ln -s /home/user/out absolute && ln -s loop loop && mkfifo out/pipe && chmod 750 out/a
echo t > "$TMP_DIR/t"; : > empty; mkdir closed; echo s > closed/s; chmod 0 closed
"""


@pytest.mark.parametrize(
    ("path", "name", "wanted"),
    [
        ("/home/user/out", "out", ["out", "out/a", "out/deep", "out/deep/b", "out/etc", "out/inner", "out/pipe"]),
        ("/home/user/out/a", "out/a", ["out/a"]),
        ("/home/user/latest/deep", "latest/deep", ["latest/deep", "latest/deep/b"]),
        ("/home/user/latest", "latest", ["latest", "latest/a", "latest/deep", "latest/deep/b"]),
        ("/home/user/absolute/../out/a", "absolute/../out/a", ["absolute/../out/a"]),
        ("/home/user/with space", "with space", ["with space", "with space/ü"]),
        ("/home/user/empty", "empty", ["empty"]),
        ("/tmp/t", "tmp/t", ["tmp/t"]),
        ("/tmp", "tmp", ["tmp", "tmp/t"]),
    ],
)
def test_snapshot(api: Api, agent: Agent, path: str, name: str, wanted: list[str]) -> None:
    lease = running(api, TREE)
    order = api.snapshot(L1, path, name=name)
    assert ended(api, order) == (0, None)
    found = members(api, order)
    assert set(wanted) <= set(found)
    if name == "out":
        assert sorted(found) == wanted
        assert found["out/etc"].issym()
        assert found["out/etc"].linkname == "/etc"
        assert found["out/a"].mode == 0o750
        assert content(api, order, "out/deep/b") == b"two\n"
    stop(api, lease)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/home/user/none", "no such file or directory"),
        ("/home/user/out/a/b", "no such file or directory"),
        ("/home/user/loop", "too many symbolic links"),
        ("/home/user/passwd", "leads out of the job's folders"),
        ("/home/user/out/etc/passwd", "leads out of the job's folders"),
        ("/home/user/up/etc", "leads out of the job's folders"),
        ("/home/user/../../etc", "leads out of the job's folders"),
        ("/home", "leads out of the job's folders"),
        ("/", "leads out of the job's folders"),
        ("/proc/self/environ", "leads out of the job's folders"),
    ],
)
def test_no_snapshot_of_what_is_not_the_jobs(api: Api, agent: Agent, path: str, why: str) -> None:
    lease = running(api, TREE)
    order = api.snapshot(L1, path)
    assert ended(api, order) == (None, f"{path}: {why}")
    assert not api.uploads
    stop(api, lease)


def test_a_snapshot_is_taken_as_the_jobs_user(api: Api, agent: Agent) -> None:
    lease = running(api, TREE)
    order = api.snapshot(L1, "/home/user/closed", name="closed")
    assert ended(api, order) == (None, "/home/user/closed: permission denied")
    stop(api, lease)


def test_snapshots_are_bounded(api: Api, agent: Agent) -> None:
    lease = running(api, 'head -c 3000000 /dev/urandom > "$HOME_DIR/big"')
    order = api.snapshot(L1, "/home/user/big", limit=1 << 20)
    assert ended(api, order) == (None, "the snapshot is larger than 1 MB, which is the limit here")
    assert not api.uploads
    assert not list(agent.record(L1).glob("commands/*/snapshot.tgz"))
    huge = api.command(L1, "truncate", "-s", "100G", "huge")
    assert ended(api, huge) == (0, None)
    slow = api.snapshot(L1, "/home/user/huge", limit=1 << 40, timeout_s=1)
    assert ended(api, slow) == (None, "it did not end within 1 s")
    stop(api, lease)


def test_files_change_while_they_are_packed(api: Api, agent: Agent) -> None:
    script = """
cd "$HOME_DIR"; mkdir d
(while :; do for i in 1 2 3 4 5 6 7 8; do head -c 200000 /dev/zero > d/$i; : > d/$i; rm -f d/$i;
 ln -s /etc/passwd d/$i; rm -f d/$i; mkdir d/$i; rmdir d/$i; done; done) &
"""
    lease = running(api, script)
    for _ in range(10):
        order = api.snapshot(L1, "/home/user/d", name="d")
        assert ended(api, order) == (0, None)
        for name in members(api, order):
            assert name == "d" or name.startswith("d/")
        assert b"root:" not in tar_bytes(api, order)
    stop(api, lease)


def tar_bytes(api: Api, order: Order) -> bytes:
    return gzip.decompress(api.uploads[order.given["id"]])
