"""What is kept of a job after its end: for a time, no longer than there is room, and enough to store outputs again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .apiserver import L1, L2, L3, Api, Lease, Order
from .conftest import PYTHON, Agent, alive, eventually
from .fileserver import FileServer
from .test_jobs import sh

NOT_KEPT = "the job's directory is not kept on this node any more"


@pytest.fixture
def store(api: Api) -> Iterator[FileServer]:
    with FileServer() as server:
        api.set(store=server.base)
        yield server


def ran(api: Api, lease: str = L1, script: str = "echo one > a.txt", files: Any = ("a.txt",), **changes: Any) -> Lease:
    """A job that has come to its end, its outputs stored."""
    outputs = [{"kind": "file", "name": name} for name in files]
    made = api.assign(lease, [sh(script)], outputs=outputs, **{"keep_s": 3600, **changes})
    api.wait(lambda: made.end)
    return made


def is_over(agent: Agent, lease: str) -> bool:
    """Its runner has tidied up all that it does."""
    return (agent.record(lease) / "ended").exists() and not alive(agent.pid(lease, "runner"))


def is_kept(agent: Agent, lease: str) -> bool:
    return is_over(agent, lease) and (agent.record(lease) / "kept").exists() and folder(agent, lease).is_dir()


def is_gone(agent: Agent, lease: str) -> bool:
    return is_over(agent, lease) and not folder(agent, lease).exists()


def kept(agent: Agent, lease: str = L1) -> None:
    eventually(lambda: is_kept(agent, lease), what=f"{lease} is kept")


def gone(agent: Agent, lease: str = L1, timeout: float = 15) -> None:
    eventually(lambda: is_gone(agent, lease), timeout, f"{lease} is gone")


def listed(api: Api, agent: Agent, lease: str, state: str) -> None:
    """See that the node says so of a lease when it next speaks, which a new service does at once."""
    agent.kill()
    agent.start()
    api.wait(lambda: api.last_poll.get(lease) == state)


def ended(api: Api, order: Order, timeout: float = 20) -> tuple[int | None, str | None]:
    api.wait(lambda: order.end, timeout)
    assert order.end is not None
    return order.end["exit_code"], order.end["error"]


def told(order: Order, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in bytes(order.output).splitlines()]
    return [line["data"] for line in lines if line["kind"] == kind]


def folder(agent: Agent, lease: str = L1) -> Path:
    return agent.state / "jobs" / lease


def test_outputs_are_stored_again_from_what_is_kept(api: Api, agent: Agent, store: FileServer) -> None:
    script = 'mkdir d; echo in > d/f; echo one > a.txt; echo t > "$TMP_DIR/t"; ln -s /tmp/t link'
    outputs = [{"kind": "file", "name": name} for name in ("a.txt", "link")] + [{"kind": "dir", "name": "d"}]
    lease = api.assign(L1, [sh(script)], outputs=outputs, keep_s=3600)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["kept_s"]) == ("completed", 3600)
    kept(agent, L1)
    before = dict(store.stored)
    store.stored.clear()
    for _ in range(2):  # as often as somebody wishes
        order = api.stage_out(L1)
        assert ended(api, order) == (0, None)
        assert {path: data for path, data in store.stored.items() if not path.endswith(".tgz")} == {
            path: data for path, data in before.items() if not path.endswith(".tgz")
        }
        assert sorted(store.stored) == sorted(before)
        first = [report["data"] for report in lease.reports if report["kind"] == "output"]
        again = told(order, "output")
        assert [(one["name"], one["file"]) for one in again] == [(one["name"], one["file"]) for one in first]
        assert told(order, "log")[0]["message"].startswith("Output a.txt: 4 bytes stored as a.txt in ")
        store.stored.clear()
    assert not any("authorization" in asked.headers for asked in store.asked)
    agent.forget(L1)


def test_nothing_but_the_jobs_own_files_is_kept(api: Api, agent: Agent, store: FileServer) -> None:
    lease = ran(api, script='echo one > a.txt; echo "$PROMINENCE_TOKEN" | wc -c')
    assert int(lease.streams["stdout"]) > 1
    kept(agent, L1)
    assert sorted(path.name for path in folder(agent).iterdir()) == ["home", "tmp"]
    assert folder(agent).stat().st_mode & 0o777 == 0o700
    secrets = [lease.assignment["token"].encode(), lease.assignment["job_token"].encode()]
    for below, _, names in os.walk(agent.state):
        for name in names:
            content = (Path(below) / name).read_bytes()
            assert not any(secret in content for secret in secrets), (below, name)
    order = api.stage_out(L1)
    assert ended(api, order) == (0, None)
    eventually(lambda: not list(agent.record(L1).glob("commands/*/order.json")), what="no order is left")
    if os.geteuid() == 0:
        # whose files are kept keeps his number, or the next job with it would be their owner
        uid = folder(agent).stat().st_uid
        ran(api, L2)
        kept(agent, L2)
        assert folder(agent, L2).stat().st_uid != uid
        agent.forget(L1)
        assert not Path(f"/run/prominence-agent/{uid}").exists()


def test_what_need_not_be_kept_is_not(api: Api, agent: Agent, store: FileServer) -> None:
    for lease in (ran(api, L1, files=()), ran(api, L2, keep_s=0)):
        assert lease.end is not None
        assert "kept_s" not in lease.end
    for name in (L1, L2):
        gone(agent, name)
    listed(api, agent, L2, "ended")
    assert ended(api, api.stage_out(L2)) == (None, NOT_KEPT)


def test_it_goes_at_its_time(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api, keep_s=4)
    kept(agent, L1)
    assert (folder(agent) / "home" / "a.txt").exists()
    gone(agent, L1, 12)
    assert ended(api, api.stage_out(L1)) == (None, NOT_KEPT)
    agent.forget(L1)


def test_it_outlives_the_service_and_goes_at_its_time(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api, L1, keep_s=8)
    ran(api, L2)
    kept(agent, L2)
    agent.kill()
    claim = Path(f"/run/prominence-agent/{folder(agent, L2).stat().st_uid}")
    claim.unlink(missing_ok=True)  # as by a start of the machine
    agent.start()
    api.wait(lambda: api.last_poll.get(L2) == "kept")
    assert claim.exists() == (os.geteuid() == 0)
    assert ended(api, api.stage_out(L2)) == (0, None)
    gone(agent, L1, 15)
    assert (folder(agent, L1).exists(), folder(agent, L2).exists()) == (False, True)
    # nor does it stay when its time comes while nobody serves the node
    ran(api, L3, keep_s=2)
    agent.kill()
    kept(agent, L3)
    until = json.loads((agent.record(L3) / "kept").read_text())["until"]
    eventually(lambda: time.time() > until, what="its time is over")
    agent.start()
    gone(agent, L3)
    assert not folder(agent, L3).exists()


def test_a_removal_that_was_cut_short_is_finished(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api)
    kept(agent, L1)
    agent.kill()
    (agent.record(L1) / "kept").unlink()  # the first that a removal does
    agent.start()
    gone(agent, L1)
    assert not folder(agent).exists()


def test_a_job_whose_runner_dies_before_its_end_is_told_stays_kept(api: Api, agent: Agent, store: FileServer) -> None:
    outputs = [{"kind": "file", "name": "a.txt"}]
    lease = api.assign(L1, [sh("echo one > a.txt; sleep 1")], outputs=outputs, keep_s=3600)
    api.wait(lambda: "running" in lease.kinds())
    store.put_refusals = [503]  # so that the end comes when the API has been switched off
    runner = agent.pid(L1, "runner")
    api.wait(lambda: "stage_out" in lease.kinds())
    eventually(lambda: f"/scratch/{L1}/a.txt" in store.stored, what="stored")
    api.set(down=True)
    eventually((agent.record(L1) / "kept").exists, what="kept")
    os.kill(runner, signal.SIGKILL)
    api.set(down=False)
    api.wait(lambda: lease.end, 40)
    kept(agent, L1)
    assert ended(api, api.stage_out(L1)) == (0, None)


def test_the_oldest_makes_room_for_a_job(api: Api, folder: Path, store: FileServer) -> None:
    agent = Agent(api, folder, [PYTHON, str(Path(__file__).parent / "hostserve.py")], ["--disk-mb", "100"])
    agent.start()
    try:
        size = {"disk_mb": 40}
        for lease in (L1, L2):
            ran(api, lease, "head -c 30000000 /dev/urandom > a.txt", resources=size)
            kept(agent, lease)
        size_mb = json.loads((agent.record(L1) / "kept").read_text())["size_mb"]
        assert 28 <= size_mb <= 31
        # there is room beside both: nothing goes
        ran(api, L3, "true", files=(), resources={"disk_mb": 39})
        gone(agent, L3)
        assert is_kept(agent, L1)
        assert is_kept(agent, L2)
        # beside one: the older goes, and is gone when the job runs or soon after
        last = api.assign("r" + L1, [sh("sleep 300")], resources={"disk_mb": 60})
        api.wait(lambda: "running" in last.kinds())
        gone(agent, L1)
        assert is_kept(agent, L2)
        assert ended(api, api.stage_out(L2)) == (0, None)
        last.stop = {"why": "Job deleted by user", "grace_s": 0}
        api.wait(lambda: last.end)
    finally:
        left = agent.close()
        print(agent.log.read_text())
    assert not left


def test_storing_again_says_what_is_missing(api: Api, agent: Agent, store: FileServer) -> None:
    store.put_refusals = [413]
    lease = ran(api, script="echo one > a.txt; echo two > b.txt", files=("a.txt", "b.txt", "never.txt"))
    assert lease.end is not None
    assert (lease.end["status"], lease.end["kept_s"]) == ("failed", 3600)
    kept(agent, L1)
    order = api.stage_out(L1)
    assert ended(api, order) == (None, "Stageout failed due to no such file or directory")
    assert [one["name"] for one in told(order, "output")] == ["a.txt", "b.txt"]
    assert told(order, "log")[-1]["message"].startswith("Output never.txt: no such file or directory")


def test_storing_again_outlives_the_service(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api)
    kept(agent, L1)
    store.stored.clear()
    store.put_refusals = [503, 503, 503]
    order = api.stage_out(L1)
    api.wait(lambda: order.beats > 1)
    agent.kill()
    agent.start()
    assert ended(api, order, 30) == (0, None)
    assert store.stored[f"/scratch/{L1}/a.txt"] == b"one\n"
    assert order.times_given == 1
    assert is_kept(agent, L1)


def test_storing_again_ends_when_it_is_told_to(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api)
    kept(agent, L1)
    store.put_refusals = [503] * 100
    order = api.stage_out(L1)
    api.wait(lambda: order.beats > 1)
    order.stop = "the job has begun again"
    assert ended(api, order, 10) == (None, "the job has begun again")
    # and it is forgotten as soon as nobody reads it
    store.put_refusals = []
    agent.forget(L1)


def test_it_stays_as_long_as_it_is_read(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api, keep_s=5)
    kept(agent, L1)
    store.put_refusals = [503, 503, 503]
    order = api.stage_out(L1)
    api.wait(lambda: order.arrived)
    assert ended(api, order, 30) == (0, None)
    gone(agent, L1, 15)


def test_storing_again_whose_process_dies_is_told(api: Api, agent: Agent, store: FileServer) -> None:
    ran(api)
    kept(agent, L1)
    store.put_refusals = [503] * 100
    order = api.stage_out(L1)
    api.wait(lambda: order.beats > 1)
    [record] = agent.record(L1).glob("commands/*/pid")
    process = int(json.loads(record.read_text())["pid"])
    os.kill(process, signal.SIGKILL)
    assert ended(api, order, 15) == (None, "the command's process on the node was lost")
    store.put_refusals = []
    assert ended(api, api.stage_out(L1)) == (0, None)
    assert not alive(process)
