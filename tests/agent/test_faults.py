"""Whatever is killed, and whatever the API does: a job runs once, ends once, and leaves no process."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from .apiserver import L1, L2, L3, Api, lease_name
from .conftest import Agent, alive, eventually
from .test_jobs import sh

# counts its own starts outside of everything the agent owns, and leaves a daemon in a session of its own
COUNTED = 'echo started >> "$0"; setsid sh -c "trap \'\' TERM; sleep 300" & {}'


def counted(path: object, script: str) -> dict[str, object]:
    return {"argv": ["sh", "-c", COUNTED.format(script), str(path)]}


@pytest.fixture
def starts(folder: object) -> object:
    path = folder / "starts"  # type: ignore[operator]
    path.touch()
    path.chmod(0o666)
    return path


def count(path: object) -> int:
    return path.read_text().count("\n")  # type: ignore[attr-defined, no-any-return]


def test_killed_service_leaves_the_job_running(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 2; echo two")])
    api.wait(lambda: lease.streams["stdout"])
    runner = agent.pid(L1, "runner")
    agent.kill()
    assert alive(runner)
    agent.start()
    api.wait(lambda: len(api.registrations) == 2)
    assert api.registrations[1]["running"] == [{"lease": L1}]
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"
    assert count(starts) == 1
    agent.forget(L1)


def test_sigterm_of_the_service_leaves_the_job_running(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo one; sleep 1; echo two")])
    api.wait(lambda: lease.streams["stdout"])
    assert agent.kill(signal.SIGTERM) == 0
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"
    agent.start()
    agent.forget(L1)


def test_killed_runner(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 300")])
    api.wait(lambda: lease.streams["stdout"])
    guard = agent.pid(L1, "guard")
    os.kill(agent.pid(L1, "runner"), signal.SIGKILL)
    eventually(lambda: not alive(guard), 3, "the guard is gone")
    api.wait(lambda: lease.lost)
    assert lease.end is None
    assert len(agent.processes()) == 1
    assert count(starts) == 1
    agent.forget(L1)


def test_killed_guard(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 300")])
    api.wait(lambda: lease.streams["stdout"])
    os.kill(agent.pid(L1, "guard"), signal.SIGKILL)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", "Job was evicted")
    agent.forget(L1)
    assert len(agent.processes()) == 1
    assert count(starts) == 1


def test_a_runner_that_dies_before_it_hears_that_its_end_is_known(api: Api, agent: Agent) -> None:
    api.set(down_after_end=True)
    lease = api.assign(L1, [sh("echo one")])
    api.wait(lambda: api.down)
    assert lease.end is not None
    os.kill(agent.pid(L1, "runner"), signal.SIGKILL)
    api.set(down=False)
    eventually((agent.record(L1) / "ended").exists, 20, "who delivers after it hears so, too")
    agent.forget(L1)
    assert len(agent.processes()) == 1


def test_killed_runner_and_guard(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 300")])
    api.wait(lambda: lease.streams["stdout"])
    for who in ("runner", "guard"):
        os.kill(agent.pid(L1, who), signal.SIGKILL)
    api.wait(lambda: lease.lost)
    assert len(agent.processes()) == 1
    agent.forget(L1)


def test_killed_runner_guard_and_service(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 300")])
    api.wait(lambda: lease.streams["stdout"])
    agent.kill()
    for who in ("guard", "runner"):
        os.kill(agent.pid(L1, who), signal.SIGKILL)
    agent.start()
    api.wait(lambda: lease.lost)
    assert len(agent.processes()) == 1
    assert count(starts) == 1
    agent.forget(L1)


def test_stopped_as_soon_as_started(api: Api, agent: Agent) -> None:
    api.wait(lambda: api.registrations)
    leases = [api.assign(lease_name(number), [sh("sleep 300")]) for number in range(5)]
    for lease in leases:
        with api.lock:
            lease.stop = {"why": "Job deleted by user", "grace_s": 0}
            api.lock.notify_all()
    api.wait(lambda: all(lease.end or lease.lost for lease in leases))
    assert [lease.end["reason"] for lease in leases if lease.end] == ["Job deleted by user"] * 5
    agent.forget(*api.leases)


def test_killed_reporter_is_replaced(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo one; sleep 1; echo two")])
    api.wait(lambda: lease.streams["stdout"])
    runner = agent.pid(L1, "runner")
    reporters = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and _parent(name) == runner and "prominence-agent report" in _command(name)
    ]
    assert len(reporters) == 1
    os.kill(reporters[0], signal.SIGKILL)
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return int(handle.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline") as handle:
        return handle.read()


def test_end_of_a_dead_runner_is_delivered(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo one; sleep 1; echo two")])
    api.wait(lambda: lease.streams["stdout"])
    api.set(down=True)
    ended = agent.record(L1) / "spool" / "swept"
    eventually(ended.exists)
    os.kill(agent.pid(L1, "runner"), signal.SIGKILL)
    time.sleep(0.5)
    api.set(down=False)
    api.wait(lambda: lease.end, 30)
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"
    assert not lease.lost


def test_api_down_for_the_whole_run(api: Api, agent: Agent, starts: object) -> None:
    lease = api.assign(L1, [counted(starts, "echo one; sleep 1; echo two")])
    api.wait(lambda: lease.listed)
    api.set(down=True)
    eventually((agent.record(L1) / "spool" / "swept").exists)
    api.set(down=False)
    api.wait(lambda: lease.end, 30)
    assert lease.kinds() == ["stage_in", "pulled", "running", "task", "end"]
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"
    assert count(starts) == 1


def test_answers_get_lost(api: Api, agent: Agent) -> None:
    api.set(drop_after_body=6)
    lease = api.assign(L1, [sh("echo one; sleep 0.3; echo two; sleep 0.3; echo three")])
    api.wait(lambda: lease.end, 30)
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\nthree\n"
    assert lease.kinds() == ["stage_in", "pulled", "running", "task", "end"]


def test_a_database_that_forgot_its_last_moments_is_told_again(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo one; sleep 2; echo two")])
    api.wait(lambda: lease.streams["stdout"] and "running" in lease.kinds())
    with api.lock:
        lease.roll_back(1)
    api.wait(lambda: lease.end)
    assert [report["seq"] for report in lease.reports] == list(range(1, len(lease.reports) + 1))
    assert lease.kinds().count("running") == 1
    assert bytes(lease.streams["stdout"]) == b"one\ntwo\n"
    agent.forget(L1)


def test_duplicate_assignments_start_once(api: Api, agent: Agent, starts: object) -> None:
    api.set(repeat_starts=True)
    lease = api.assign(L1, [counted(starts, "echo one; sleep 0.5")])
    api.wait(lambda: lease.end)
    api.wait(lambda: lease.starts_given == 3)
    assert count(starts) == 1


def test_conflict_makes_the_node_register_again(api: Api, agent: Agent) -> None:
    api.wait(lambda: api.registrations)
    with api.lock:
        api.conflicts = 2
    lease = api.assign(L1, [sh("echo one")])
    api.wait(lambda: lease.end)
    with api.lock:
        api.leases[L1].forget = True
        api.lock.notify_all()
    api.wait(lambda: len(api.registrations) >= 2, 30)


def test_stale_attempt_is_killed_and_dropped(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("while :; do echo x; sleep 0.1; done")])
    api.wait(lambda: lease.streams["stdout"])
    with api.lock:
        lease.stale = True
    eventually((agent.record(L1) / "ended").exists)
    eventually(lambda: not (agent.record(L1) / "spool").exists())
    assert not (agent.state / "jobs" / L1).exists()
    assert lease.end is None
    agent.forget(L1)


def test_walltime_kills_what_hides(api: Api, agent: Agent) -> None:
    # ignores SIGTERM, forks twice into sessions of its own, and goes on writing
    hide = "trap '' TERM; (setsid sh -c \"trap '' TERM; env -i setsid sleep 301 & sleep 302\" &) ; echo up; sleep 303"
    lease = api.assign(L1, [sh(hide), sh("echo never")], resources={"walltime_s": 1})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Walltime limit exceeded")
    assert lease.end["execution"]["tasks"][0]["wallTimeUsage"] >= 1
    assert not _sleepers("301", "302", "303")


def test_a_daemon_does_not_outlive_its_task(api: Api, agent: Agent) -> None:
    daemon = "(setsid sh -c \"trap '' TERM; exec sleep 304\" &) ; echo up"
    lease = api.assign(L1, [sh(daemon), {"argv": ["sh", "-c", "ps ax"]}])
    api.wait(lambda: lease.end)
    assert b"sleep 304" not in lease.streams["stdout"]
    assert not _sleepers("304")


def _sleepers(*seconds: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and alive(int(name)):
            try:
                line = _command(name)
            except OSError:
                continue
            found += [line for second in seconds if line == f"sleep\0{second}\0"]
    return found


def test_memory_limit(api: Api, agent: Agent) -> None:
    eat = "x = []\nwhile True: x.append(b'x' * 1000000)"
    lease = api.assign(L1, [{"argv": ["python3", "-c", eat]}], resources={"memory_mb": 64})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job used too much memory")
    assert lease.end["execution"]["maxMemoryUsageKB"] > 32 * 1024


def test_disk_limit(api: Api, agent: Agent) -> None:
    fill = 'dd if=/dev/zero of="$HOME_DIR/f" bs=1M count=20 2>/dev/null; mkdir -m 0 "$HOME_DIR/closed"; sleep 300'
    lease = api.assign(L1, [sh(fill)], resources={"disk_mb": 10})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job used too much disk")
    assert not (agent.state / "jobs" / L1).exists()


def test_disk_limit_counts_what_has_no_name_any_more(api: Api, agent: Agent) -> None:
    hold = 'cd "$HOME_DIR"; dd if=/dev/zero of=f bs=1M count=20 2>/dev/null; exec 3<f; rm f; sleep 305'
    kept = api.assign(L1, [sh(hold)], resources={"disk_mb": 10})
    lease = api.assign(L2, [sh(hold.replace("sleep 305", "exec 3<&-; sleep 3"))], resources={"disk_mb": 30})
    # neither is on disk: a file in memory with a name and one without
    in_memory = """
import os, time
fd = os.memfd_create("x"); os.write(fd, bytes(20 << 20))
path = "/dev/shm/prominence-test-%d" % os.getpid(); other = open(path, "wb"); os.unlink(path)
other.write(bytes(20 << 20)); other.flush(); print("up", flush=True); time.sleep(3)
"""
    memory = api.assign(L3, [{"argv": ["python3", "-c", in_memory]}], resources={"disk_mb": 10})
    api.wait(lambda: kept.end and lease.end and memory.end)
    assert kept.end is not None
    assert (kept.end["status"], kept.end["reason"]) == ("killed", "Job used too much disk")
    assert lease.end is not None
    assert lease.end["status"] == "completed"
    assert memory.end is not None
    assert (memory.end["status"], bytes(memory.streams["stdout"])) == ("completed", b"up\n"), memory.streams["stderr"]
    agent.forget(L1, L2, L3)


def test_two_services_never_share_a_state(api: Api, agent: Agent) -> None:
    api.wait(lambda: api.registrations)
    first = agent.process
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(10) == 2
    agent.process = first
    assert "served by another agent" in agent.log.read_text()


@pytest.mark.parametrize("seed", range(8))
def test_kills_at_random_moments(api: Api, agent: Agent, starts: object, seed: int) -> None:
    """Each job ends once or is lost once, and never starts twice, whoever is killed and when."""
    dice = random.Random(seed)
    lease = api.assign(L1, [counted(starts, "echo one; sleep 1; echo two")])
    time.sleep(dice.uniform(0, 1.2))
    victims = dice.sample(["runner", "guard", "serve"], dice.choice([1, 2, 3]))
    for victim in victims:
        if victim == "serve":
            agent.kill()
        elif (agent.record(L1) / f"{victim}.pid").exists() and alive(agent.pid(L1, victim)):
            os.kill(agent.pid(L1, victim), signal.SIGKILL)
    if "serve" in victims:
        agent.start()
    api.wait(lambda: lease.end or lease.lost, 30)
    assert count(starts) <= 1
    agent.forget(L1)
    assert len(agent.processes()) == 1
