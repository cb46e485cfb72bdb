"""Volumes of a real WebDAV server, mounted by rclone: read, written, parted from, and gone whatever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webdav import PASSWORD, USER, WebDav, need_mounts

from .apiserver import L1, L2, Api, Lease
from .conftest import Agent, alive, eventually
from .test_jobs import sh

pytestmark = pytest.mark.sites

ANYWHERE = {"private": True, "loopback": True}
WRITE = """
cd "$BIND_data"; cat given; ./tool
echo one > f; echo two >> f; mkdir -p d/e; echo deep > d/e/g; rm given
head -c 3000000 /dev/urandom > big; printf MARK | dd of=big bs=1 seek=1000 conv=notrunc 2>/dev/null; sha256sum < big
mv d/e/g moved; touch empty
"""
READ = 'cd "$BIND_data"; cat f moved; sha256sum < big; stat -c "%u %a" . f | sort -u; id -u'
USE = """
echo up; while [ ! -e "{gone}" ]; do sleep 0.1; done
ls "$BIND_data/d1"; cat "$BIND_data/f"; sleep 300
"""
FAILED = "Unable to mount storage volume"
LOST = "Unable to write to storage volume"


@pytest.fixture
def dav(folder: Path) -> Iterator[WebDav]:
    need_mounts()
    server = WebDav(folder / "dav")
    server.start()
    yield server
    server.kill()


def assign(api: Api, dav: WebDav, name: str, *scripts: str, **more: object) -> Lease:
    storage = more.pop("storage", None) or dav.storage()
    tasks = [sh(script) if isinstance(script, str) else script for script in scripts]
    return api.assign(name, tasks, **{"storage": storage, "addresses": ANYWHERE, **more})


def lines(lease: Lease) -> list[str]:
    return [report["data"]["message"] for report in lease.reports if report["kind"] == "log"]


def mounts(agent: Agent) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(agent.state) in line]


def tools(agent: Agent) -> list[int]:
    """All rclone processes of this node."""
    return [pid for pid in agent.processes() if _command(pid)[:1] and _command(pid)[0].endswith("rclone")]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def nothing_left(agent: Agent, *leases: str) -> None:
    eventually(lambda: not mounts(agent), what="unmounted")
    eventually(lambda: not tools(agent), what="rclone gone")
    for lease in leases:
        assert not (agent.state / "mounts" / lease).exists()
        assert not (agent.record(lease) / "storage").exists()


def test_a_volume_is_read_and_written_like_a_folder(api: Api, agent: Agent, dav: WebDav) -> None:
    (dav.data / "given").write_text("from the server\n")
    (dav.data / "tool").write_text("#!/bin/sh\necho ran\n")
    lease = assign(api, dav, L1, WRITE, READ)
    api.wait(lambda: lease.end)
    print(lines(lease), lease.end, lease.streams)
    given, ran, sum1, one, two, deep, sum2, *modes, uid = bytes(lease.streams["stdout"]).decode().splitlines()
    assert (given, ran, one, two, deep) == ("from the server", "ran", "one", "two", "deep")
    assert sum1 == sum2
    assert modes == [f"{uid} 700"]
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", True)
    # all of it was on the server before the end was told
    assert sorted(path.name for path in dav.data.iterdir()) == ["big", "d", "empty", "f", "moved", "tool"]
    assert (dav.data / "f").read_text() == "one\ntwo\n"
    assert (dav.data / "big").read_bytes()[1000:1004] == b"MARK"
    assert (dav.data / "empty").read_bytes() == b""
    (line,) = lines(lease)
    assert re.fullmatch(r"Storage webdav mounted at /data in \d+\.\d s", line)
    assert lease.end["execution"]["stageInTime"] > 0
    nothing_left(agent, L1)
    agent.forget(L1)


def test_what_a_killed_job_has_written_is_saved(api: Api, agent: Agent, dav: WebDav) -> None:
    script = 'head -c 1000000 /dev/zero > "$BIND_data/{0}"; echo up; sleep 300'
    one = assign(api, dav, L1, script.format("one"), resources={"walltime_s": 1})
    two = assign(api, dav, L2, script.format("two"))
    api.wait(lambda: two.streams["stdout"])
    began = time.monotonic()
    with api.lock:
        two.stop = {"why": "Job deleted by user", "grace_s": 2}
        api.lock.notify_all()
    api.wait(lambda: one.end and two.end)
    assert time.monotonic() - began < 8
    assert one.end is not None
    assert one.end["reason"] == "Walltime limit exceeded"
    assert (dav.data / "one").stat().st_size == (dav.data / "two").stat().st_size == 1000000
    nothing_left(agent, L1, L2)


def test_two_jobs_share_a_volume(api: Api, agent: Agent, dav: WebDav) -> None:
    ask = 'cd "$BIND_data"; echo question > q; until [ -s answer ]; do sleep 0.2; done; cat answer'
    answer = 'cd "$BIND_data"; until [ -s q ]; do sleep 0.2; done; cat q; echo fortytwo > answer'
    one, two = assign(api, dav, L1, ask), assign(api, dav, L2, answer)
    api.wait(lambda: one.end and two.end, 60)
    assert (bytes(one.streams["stdout"]), bytes(two.streams["stdout"])) == (b"fortytwo\n", b"question\n")
    nothing_left(agent, L1, L2)


def test_sidecars_have_the_volume_too(api: Api, agent: Agent, dav: WebDav) -> None:
    beside = sh('cd "$BIND_data"; echo beside > s; sleep 300', type="sidecar")
    lease = assign(api, dav, L1, beside, 'until [ -s "$BIND_data/s" ]; do sleep 0.1; done; cat "$BIND_data/s"')  # type: ignore[arg-type]
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"beside\n"
    nothing_left(agent, L1)


def test_a_wrong_password(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, L1, "echo no", storage=dav.storage(password="wrong-" + "x" * 20))
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", FAILED)
    # one try: asking again with a wrong password has accounts locked
    (line,) = lines(lease)
    assert line == "Storage could not be mounted: couldn't list files: 401 Not Authorized"
    assert not lease.streams["stdout"]
    assert lease.kinds() == ["stage_in", "log", "end"]
    nothing_left(agent, L1)
    agent.forget(L1)


def test_a_folder_that_is_not_there(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, L1, "echo no", storage=dav.storage(url=dav.url + "/nowhere"))
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["reason"] == FAILED
    assert lines(lease) == ["Storage could not be mounted: directory not found"]


def test_a_server_that_is_not_there_is_tried_three_times(api: Api, agent: Agent, dav: WebDav) -> None:
    dav.kill()
    lease = assign(api, dav, L1, "echo no")
    api.wait(lambda: lease.end, 40)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", FAILED)
    first, second, last = lines(lease)
    assert first.startswith("Storage webdav: try 1 of 3 failed: ")
    assert second.startswith("Storage webdav: try 2 of 3 failed: ")
    assert last.startswith("Storage could not be mounted: ")
    assert all("connection refused" in line for line in (first, second, last))
    nothing_left(agent, L1)


def test_a_server_that_comes_back_is_mounted(api: Api, agent: Agent, dav: WebDav) -> None:
    dav.kill()
    lease = assign(api, dav, L1, 'echo x > "$BIND_data/f"')
    api.wait(lambda: lines(lease))
    dav.start()
    api.wait(lambda: lease.end, 40)
    assert lease.end is not None
    assert lease.end["status"] == "completed"
    assert (dav.data / "f").read_text() == "x\n"


def test_a_loopback_address_is_closed_where_the_site_does_not_allow_it(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, L1, "echo no", addresses={"private": True, "loopback": False})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["reason"] == FAILED
    assert "loopback_sites" in lines(lease)[0]


def test_b2drop_is_the_same_at_its_own_address(api: Api, agent: Agent, folder: Path) -> None:
    need_mounts()
    server = WebDav(folder / "b2drop", "/remote.php/webdav")
    server.start()
    try:
        account = {"url": server.url, "app-username": USER, "app-password": PASSWORD}
        storage = {"type": "b2drop", "mountpoint": "/data", "b2drop": account}
        lease = assign(api, server, L1, 'head -c 20000000 /dev/zero > "$BIND_data/f"', storage=storage)
        api.wait(lambda: lease.end, 40)
        assert lease.end is not None
        assert lease.end["status"] == "completed"
        assert (server.data / "f").stat().st_size == 20_000_000
    finally:
        server.kill()


def test_secrets_are_nowhere_to_be_read(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, L1, 'echo x > "$BIND_data/f"; id -u; sleep 300')
    api.wait(lambda: lease.streams["stdout"])
    uid = int(lease.streams["stdout"])
    secrets = [PASSWORD.encode(), json.dumps(PASSWORD).encode()]
    secrets += [word for word in _environ(tools(agent)[0]) if word.startswith(b"RCLONE_CONFIG_STORE_PASS=")]
    assert len(secrets) == 3
    secrets[2] = secrets[2].partition(b"=")[2]
    for name in os.listdir("/proc"):
        if name.isdigit():
            shown = b"\0".join(line.encode() for line in _command(int(name)))
            assert not any(secret in shown for secret in secrets)
            if _owner(int(name)) == uid and os.geteuid() == 0:
                assert not any(secret in b"\0".join(_environ(int(name))) for secret in secrets)
    logs = [agent.log, agent.record(L1) / "runner.log", agent.record(L1) / "storage" / "log"]
    readable = [
        path for path in agent.state.rglob("*") if path.is_file() and str(agent.state / "mounts") not in str(path)
    ]
    closed = {agent.record(L1) / "assignment.json"}
    for path in [*logs, *readable]:
        if path not in closed:
            assert not any(secret in path.read_bytes() for secret in secrets), path
    assert agent.record(L1).parent.stat().st_mode & 0o077 == 0
    assert not any(secret.decode() in json.dumps(lease.reports) for secret in secrets)
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 0}
        api.lock.notify_all()
    api.wait(lambda: lease.end)


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's jobs are its own")
def test_the_volume_is_the_jobs_alone(api: Api, agent: Agent, dav: WebDav) -> None:
    (dav.data / "private").write_text("private\n")
    one = assign(api, dav, L1, 'echo "$BIND_data"; sleep 300')
    api.wait(lambda: one.streams["stdout"])
    point = one.streams["stdout"].decode().strip()
    tasks = [sh(f'ls "{point}" || echo closed; cat "{point}/private" || echo closed; mv "{point}" /tmp/x || echo kept')]
    two = api.assign(L2, tasks)
    api.wait(lambda: two.end)
    assert bytes(two.streams["stdout"]) == b"closed\nclosed\nkept\n"
    with api.lock:
        one.stop = {"why": "Job deleted by user", "grace_s": 0}
        api.lock.notify_all()
    api.wait(lambda: one.end)


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_goes_away_does_not_keep_the_job(api: Api, agent: Agent, dav: WebDav, signum: int) -> None:
    (dav.data / "f").write_text("x\n")
    gone = dav.data.parent / "gone"
    lease = assign(api, dav, L1, USE.format(gone=gone), resources={"walltime_s": 4})
    api.wait(lambda: lease.streams["stdout"])
    dav.send(signum)
    gone.touch()
    began = time.monotonic()
    api.wait(lambda: lease.end, 30)
    assert time.monotonic() - began < 12
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Walltime limit exceeded")
    nothing_left(agent, L1)
    agent.forget(L1)


def test_files_that_can_not_be_saved_fail_the_job(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(
        api,
        dav,
        L1,
        'while [ -e "$0" ]; do sleep 0.1; done; mkdir -p "$BIND_data"; echo x > "$BIND_data/lost"'.replace(
            "$0", str(dav.data / "here")
        ),
    )
    (dav.data / "here").touch()
    api.wait(lambda: "running" in lease.kinds())
    # the data's folder is closed to the server, which goes on to answer
    dav.data.chmod(0o500)
    dav.data.rename(dav.data.with_name("moved"))
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", LOST)
    assert lines(lease)[-1] == "Storage: 1 files could not be stored on the server: lost"
    nothing_left(agent, L1)


@pytest.mark.parametrize(
    "victims",
    [
        ["guard"],
        ["guard-1"],
        ["runner"],
        ["rclone"],
        ["runner", "guard", "guard-1", "serve"],
        ["runner", "guard", "guard-1", "rclone", "serve"],
    ],
    ids="+".join,
)
def test_kills(api: Api, agent: Agent, dav: WebDav, victims: list[str]) -> None:
    lease = assign(api, dav, L1, 'cd "$BIND_data"; echo up; exec 3> open; while :; do echo x >&3; sleep 0.1; done')
    api.wait(lambda: lease.streams["stdout"])
    assert mounts(agent)
    pids = [tools(agent)[0] if who == "rclone" else agent.pid(L1, who) for who in victims if who != "serve"]
    if "serve" in victims:
        agent.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if "serve" in victims:
        agent.start()
    api.wait(lambda: lease.end or lease.lost, 40)
    if lease.end is not None:
        reason = FAILED if victims == ["rclone"] else "Job was evicted"
        assert (lease.end["status"], lease.end["reason"]) == ("failed", reason)
    if victims == ["rclone"]:
        assert lines(lease)[-1].startswith("Storage webdav is lost: ")
    nothing_left(agent, L1)
    assert not any(alive(pid) for pid in pids)
    agent.forget(L1)
    assert len(agent.processes()) == 1
