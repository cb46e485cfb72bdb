"""Jobs that hold at the borders of their phases until the API lets them go on."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .apiserver import L1, Api, Lease
from .conftest import Agent, eventually


def _held(lease: Lease) -> str | None:
    """Before which phase it holds now."""
    return str(lease.reports[-1]["data"]["phase"]) if lease.kinds()[-1:] == ["held"] else None


def _go(api: Api, lease: Lease, phase: str) -> None:
    with api.lock:
        lease.go = phase


def test_a_job_holds_at_each_border_and_its_walltime_does_not_count(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [{"argv": ["sh", "-c", "echo ran; exit 3"]}], holds=True, resources={"walltime_s": 3})
    api.wait(lambda: _held(lease) == "staging_in")
    time.sleep(1.5)
    assert lease.kinds() == ["held"]
    _go(api, lease, "staging_in")
    api.wait(lambda: _held(lease) == "running")
    assert lease.kinds() == ["held", "stage_in", "pulled", "held"]
    # longer than its walltime
    time.sleep(3.5)
    assert lease.kinds()[-1] == "held"
    assert bytes(lease.streams["stdout"]) == b""
    _go(api, lease, "running")
    api.wait(lambda: _held(lease) == "staging_out")
    data = lease.reports[-1]["data"]
    assert (data["tasks_success"], [task["exitCode"] for task in data["tasks"]]) == (False, [3])
    time.sleep(1.5)
    assert lease.end is None
    _go(api, lease, "staging_out")
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["node_success"]) == ("completed", False)
    agent.forget(L1)


def test_who_is_let_go_far_holds_nowhere(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [{"argv": ["true"]}], holds=True)
    _go(api, lease, "staging_out")
    api.wait(lambda: lease.end)
    assert lease.kinds() == ["held", "stage_in", "pulled", "held", "running", "task", "held", "end"]
    agent.forget(L1)


@pytest.mark.parametrize("allowed", [None, "staging_in", "running"])
def test_a_job_that_holds_is_ended_when_the_answer_says_so(api: Api, agent: Agent, allowed: str | None) -> None:
    lease = api.assign(L1, [{"argv": ["true"]}], holds=True)
    if allowed is not None:
        _go(api, lease, allowed)
    wanted = {None: "staging_in", "staging_in": "running", "running": "staging_out"}[allowed]
    api.wait(lambda: _held(lease) == wanted)
    with api.lock:
        lease.told_to_stop = "Job was not let go on in Airflow"
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["status"] == "killed"
    assert not (agent.state / "jobs" / L1).exists()
    agent.forget(L1)


def test_a_new_reporter_asks_on(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [{"argv": ["true"]}], holds=True)
    api.wait(lambda: _held(lease) == "staging_in")
    title = f"prominence-agent report {L1}".encode()

    def reporters() -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as handle:
                        if title in handle.read():
                            found.append(int(name))
                except OSError:
                    continue
        return found

    [reporter] = reporters()
    os.kill(reporter, signal.SIGKILL)
    eventually(lambda: reporters() not in ([], [reporter]))
    _go(api, lease, "staging_out")
    api.wait(lambda: lease.end)
    agent.forget(L1)
