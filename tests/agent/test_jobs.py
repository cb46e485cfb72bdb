"""What a job's life on a node looks like from the API."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time

import pytest

from .apiserver import L0, L1, L2, L3, Api, lease_name
from .conftest import Agent, eventually


def sh(script: str, **more: object) -> dict[str, object]:
    return {"argv": ["sh", "-c", script], **more}


def test_a_job_runs_to_its_end(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo out; echo err >&2")])
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"out\n"
    assert bytes(lease.streams["stderr"]) == b"err\n"
    assert lease.kinds() == ["stage_in", "pulled", "running", "task", "end"]
    assert lease.end is not None
    assert lease.end["status"] == "completed"
    assert lease.end["node_success"] is True
    assert "tail" not in lease.end
    execution = lease.end["execution"]
    assert execution["provisionedResources"] == {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}
    assert execution["runtimeVersion"] == {"singularity": "host 1"}
    (task,) = execution["tasks"]
    assert task["exitCode"] == 0
    assert task["imagePullStatus"] == "completed"
    assert task["maxResidentSetSizeKB"] > 0
    pulled, used = {"imagePullStatus", "imagePullTime"}, {"exitCode", "wallTimeUsage", "cpuTimeUsage", "retries"}
    assert set(task) - {"imageSha256"} == pulled | used | {"maxResidentSetSizeKB"}
    assert not (agent.state / "jobs" / L1).exists()
    record = agent.record(L1)
    eventually((record / "ended").exists)
    eventually(lambda: not (record / "spool").exists())
    assert f"token-{L1}" not in (record / "assignment.json").read_text()
    agent.forget(L1)


def test_after_a_job_the_cache_is_trimmed(api: Api, agent: Agent) -> None:
    left = agent.state / "cache" / "tmp" / "of-a-killed-pull"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    lease = api.assign(L1, [sh("true")])
    api.wait(lambda: lease.end)
    eventually(lambda: not left.exists())
    agent.forget(L1)


def test_exit_code_tail_and_retries(api: Api, agent: Agent) -> None:
    lease = api.assign(
        L1,
        [sh('echo x >> "$HOME_DIR/n"; echo "try $(wc -l < "$HOME_DIR/n")"; echo bad >&2; exit 3'), sh("echo never")],
        task_retries=2,
    )
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"], lease.end["reason"]) == ("completed", False, "")
    assert bytes(lease.streams["stdout"]) == b"try 1\ntry 2\ntry 3\n"
    assert lease.end["tail"].endswith("bad\n")
    first, second = lease.end["execution"]["tasks"]
    assert (first["exitCode"], first["retries"]) == (3, 2)
    assert second == {"imagePullStatus": "cached", "imagePullTime": -1}


def test_binary_last_words_do_not_keep_the_end_from_being_told(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh(r"printf 'a\000b\377\n'; exit 3")])
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert bytes(lease.streams["stdout"]) == b"a\0b\xff\n"
    assert lease.end["tail"] == "a\ufffdb\ufffd\n"


def test_retry_succeeds(api: Api, agent: Agent) -> None:
    script = 'if [ -e "$TMP_DIR/was" ]; then exit 0; fi; touch "$TMP_DIR/was"; exit 1'
    lease = api.assign(L1, [sh(script)], task_retries=3)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["node_success"] is True
    assert lease.end["execution"]["tasks"][0]["retries"] == 1


def test_ignore_task_failures(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("exit 7"), sh("echo second")], ignore_task_failures=True)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert bytes(lease.streams["stdout"]) == b"second\n"
    assert [task["exitCode"] for task in lease.end["execution"]["tasks"]] == [7, 0]
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", False)


def test_environment_and_shared_folders(api: Api, agent: Agent) -> None:
    show = {"argv": ["env"], "env": {"A": "{{ b }} $(c) `d` \u00e9", "PROMINENCE_JOB_ID": "999"}}
    lease = api.assign(L1, [sh('echo kept > "$HOME_DIR/f"'), show, sh('cat "$HOME_DIR/f"', runtime="udocker")])
    api.wait(lambda: lease.end)
    lines = bytes(lease.streams["stdout"]).decode().splitlines()
    assert lines[-1] == "kept"
    env = dict(line.split("=", 1) for line in lines[:-1])
    assert env["A"] == "{{ b }} $(c) `d` \u00e9"
    assert env["PROMINENCE_JOB_ID"] == "12"
    assert env["PROMINENCE_TOKEN"] == f"job-token-{L1}"
    assert env["PROMINENCE_TASK_NUM"] == "1"
    assert env["PROMINENCE_CONTAINER_RUNTIME"] == "singularity"
    assert (env["HOME"], env["TMP"], env["TEMP"], env["TMPDIR"], env["USER"]) == (
        "/home/user", "/tmp", "/tmp", "/tmp", "user"
    )  # fmt: skip


def test_inputs(api: Api, agent: Agent) -> None:
    def item(name: str, content: bytes, executable: bool = False) -> dict[str, object]:
        return {"filename": name, "content": base64.b64encode(content).decode(), "executable": executable}

    inputs = [item("a b.txt", b"\x00\xff"), item("run.sh", b"#!/bin/sh\necho ran\n", True), item("d/e", b"deep")]
    lease = api.assign(L1, [sh('./run.sh; cat d/e; od -An -tx1 "a b.txt"; id -u; stat -c %u d/e')], inputs=inputs)
    api.wait(lambda: lease.end)
    ran, deep, uid, owner = bytes(lease.streams["stdout"]).decode().splitlines()
    assert (ran, deep) == ("ran", "deep 00 ff")
    assert uid == owner
    assert uid != "0"
    assert lease.end is not None
    assert lease.end["execution"]["stageInTime"] >= 0


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a//b", "."])
def test_inputs_stay_in_the_home(api: Api, agent: Agent, name: str) -> None:
    lease = api.assign(L1, [sh("echo no")], inputs=[{"filename": name, "content": "", "executable": False}])
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["status"] == "failed"
    assert lease.kinds() == ["stage_in", "log", "end"]


def test_pull_failure(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo no", image="missing")])
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", "Container image pull failed")
    assert [r["data"] for r in lease.reports if r["kind"] == "log"] == [{"message": "image: missing does not exist"}]
    (task,) = lease.end["execution"]["tasks"]
    assert task["imagePullStatus"] == "failed"
    assert "exitCode" not in task


def test_runtime_that_cannot_be_executed(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo no", image="broken-runtime")])
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", "Unable to execute task(s)")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's jobs are its own")
def test_no_process_of_a_job_is_root(api: Api, agent: Agent) -> None:
    one = api.assign(L1, [sh("id -u; id -g; id -G; sleep 30 & sleep 30")])
    two = api.assign(L2, [sh("id -u; sleep 30")])
    api.wait(lambda: one.streams["stdout"].count(b"\n") == 3 and two.streams["stdout"])
    mark = [pid for pid in agent.processes() if f"PROMINENCE_LEASE={L1}".encode() in _environ(pid)]
    assert len(mark) >= 3
    assert all(os.stat(f"/proc/{pid}").st_uid != 0 for pid in mark)
    uid, gid, groups = bytes(one.streams["stdout"]).decode().splitlines()
    assert uid == gid == groups
    assert two.streams["stdout"].decode().strip() != uid
    for name in (L1, L2):
        with api.lock:
            api.leases[name].stop = {"why": "Job deleted by user", "grace_s": 0}
            api.lock.notify_all()
    api.wait(lambda: one.end and two.end)


def _environ(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as handle:
            return handle.read().split(b"\0")
    except OSError:
        return []


def test_ten_megabytes_without_a_newline(api: Api, agent: Agent) -> None:
    script = (
        "import sys,random; r=random.Random(1);"
        "sys.stdout.buffer.write(r.randbytes(10*1024*1024).replace(b'\\n',b'\\0'))"
    )
    lease = api.assign(L1, [{"argv": ["python3", "-c", script]}])
    api.wait(lambda: lease.end, 40)
    wanted = random.Random(1).randbytes(10 * 1024 * 1024).replace(b"\n", b"\0")
    assert hashlib.sha256(lease.streams["stdout"]).digest() == hashlib.sha256(wanted).digest()


def test_output_is_live_and_dev_stdout_opens(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("date +%s.%N; sleep 1; echo two > /dev/stdout; echo three > /dev/stderr; echo four")])
    api.wait(lambda: lease.streams["stdout"])
    late = lease.arrived["stdout"] - float(lease.streams["stdout"].split(b"\n")[0])
    assert late < 1.0
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]).split(b"\n")[1:] == [b"two", b"four", b""]
    assert bytes(lease.streams["stderr"]) == b"three\n"


def test_full_stops_the_stream_only(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("head -c 3000000 /dev/zero; echo err >&2; exit 0")])
    lease.limit = 100_000
    api.wait(lambda: lease.end)
    assert len(lease.streams["stdout"]) == 100_000
    assert bytes(lease.streams["stderr"]) == b"err\n"


def test_two_jobs_do_not_share(api: Api, agent: Agent) -> None:
    leases = [
        api.assign(lease_name(n), [sh(f'echo {n} > "$HOME_DIR/f"; sleep 0.5; cat "$HOME_DIR/f"')]) for n in range(4)
    ]
    api.wait(lambda: all(lease.end for lease in leases))
    assert [bytes(lease.streams["stdout"]) for lease in leases] == [b"0\n", b"1\n", b"2\n", b"3\n"]
    agent.forget(L0, L1, L2, L3)


def test_nothing_secret_is_on_a_command_line_or_readable(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo up; sleep 30")])
    api.wait(lambda: lease.streams["stdout"])
    for pid in agent.processes():
        with open(f"/proc/{pid}/cmdline", "rb") as handle:
            line = handle.read()
        assert f"token-{L1}".encode() not in line
        assert b"node-token" not in line
    assert agent.record(L1).parent.stat().st_mode & 0o077 == 0
    assert (agent.record(L1) / "assignment.json").stat().st_mode & 0o077 == 0
    assert (agent.state / "jobs" / L1).stat().st_mode & 0o077 == 0
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 0}
        api.lock.notify_all()
    began = time.monotonic()
    api.wait(lambda: lease.end)
    assert time.monotonic() - began < 5
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job deleted by user")
    assert json.loads((agent.state / "node.json").read_text())["runtimes"]["udocker"] == "host"
