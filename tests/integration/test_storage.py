"""A user's storage in a job's container, through the whole stack to a real WebDAV server."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.stacks import Stack, until
from tests.webdav import PASSWORD, USER, WebDav, need_mounts

pytestmark = pytest.mark.sites

FAILED = "Unable to mount storage volume"
WORK = "sh -c 'cat /data/given; echo from inside >/data/made; mkdir /data/d; cp /data/made /data/d/copy; ls /data'"


@pytest.fixture
def dav(cloud: WebDav) -> Iterator[WebDav]:
    need_mounts()
    cloud.start()
    (cloud.data / "given").write_text("from outside\n")
    yield cloud
    cloud.kill()
    cloud.empty()


def webdav(url: str, password: str = PASSWORD) -> dict[str, Any]:
    account = {"url": url, "username": USER, "password": password}
    return {"type": "webdav", "mountpoint": "/data", "webdav": account}


def b2drop(**changes: Any) -> dict[str, Any]:
    account = {"app-username": USER, "app-password": PASSWORD}
    return {"type": "b2drop", "mountpoint": "/data", "b2drop": account, **changes}


def submit(stack: Stack, cmd: str, storage: dict[str, Any], **changes: Any) -> int:
    resources = {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1, **changes}
    task = {"image": stack.image, "runtime": "singularity", "cmd": cmd}
    return stack.submit({"name": "storage", "resources": resources, "tasks": [task], "storage": storage})


def mounted() -> list[str]:
    """Volumes of jobs of any node of this machine."""
    found = Path("/proc/self/mountinfo").read_text()
    return [line for line in found.splitlines() if "/mounts/" in line and line.split()[4].endswith("/volume")]


@pytest.mark.parametrize("kind", ["webdav", "b2drop"])
def test_a_job_works_on_a_volume(stack: Stack, dav: WebDav, kind: str) -> None:
    job = submit(stack, WORK, webdav(dav.url) if kind == "webdav" else b2drop())
    described = stack.wait(job)
    assert described["status"] == "completed", described
    assert stack.stdout(job).decode().split("\n") == ["from outside", "d", "given", "made", ""]
    assert (dav.data / "made").read_text() == "from inside\n"
    assert (dav.data / "d" / "copy").read_text() == "from inside\n"
    assert described["execution"]["stageInTime"] > 0
    assert mounted() == []


def test_it_takes_the_object_stores_place(stack: Stack, dav: WebDav, tmp_path: Path) -> None:
    """Image, artifact and outputs, by the names that they have there; two jobs need no directory of their own."""
    shutil.copy(next(stack.places.images.glob("*.tar")), dav.data / "image.tar")
    (dav.data / "in").mkdir()
    (dav.data / "in" / "tool").write_text(
        "#!/bin/sh\nread line < /data/given; echo $line > found.txt; seq 3 > out/seq\n"
    )
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [
            {"image": "image.tar", "runtime": "singularity", "cmd": "mkdir out"},
            {"image": "image.tar", "runtime": "singularity", "cmd": "./tool"},
        ],
        "artifacts": [{"url": "in/tool", "executable": True}],
        "outputFiles": ["found.txt"],
        "outputDirs": ["out"],
        "storage": b2drop(default=True, directory="runs/model-$PROMINENCE_JOB_ID"),
    }
    jobs = [stack.submit(document) for _ in range(2)]
    for job in jobs:
        described = stack.wait(job)
        assert described["status"] == "completed", described
        folder = dav.data / "runs" / f"model-{job}"
        assert sorted(path.name for path in folder.iterdir()) == ["found.txt", "out.tgz"]
        assert (folder / "found.txt").read_text() == "from outside\n"
        with tarfile.open(folder / "out.tgz") as archive:
            assert archive.getnames() == ["out", "out/seq"]
        path = f"runs/model-{job}/found.txt"
        assert described["outputFiles"] == [{"name": "found.txt", "size": 13, "url": "", "path": path}]
        assert described["storage"] == {**document["storage"], "b2drop": {"app-username": "***", "app-password": "***"}}
    # of ours is nothing to be downloaded, and the client says nothing of it
    done = stack.run_cli("download", str(jobs[0]), cwd=tmp_path, HOME=str(tmp_path))
    assert (done.code, list(tmp_path.iterdir())) == (0, []), done
    assert mounted() == []


def test_a_jobs_outputs_are_the_next_ones_artifacts(stack: Stack, dav: WebDav) -> None:
    storage = webdav(dav.url) | {"default": True}
    task = {"image": stack.image, "runtime": "singularity"}
    first = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{**task, "cmd": "sh -c 'mkdir d; echo first > d/result'"}],
        "outputDirs": ["d"],
        "storage": storage,
    }
    described = stack.wait(stack.submit(first))
    assert described["status"] == "completed", described
    [output] = described["outputDirs"]
    second = {
        **first,
        "tasks": [{**task, "cmd": "cat d/result"}],
        "artifacts": [{"url": output["path"]}],
        "outputDirs": [],
    }
    job = stack.submit(second)
    assert stack.wait(job)["status"] == "completed"
    assert stack.stdout(job) == b"first\n"


def test_jobs_of_a_workflow_hand_on_what_they_store(stack: Stack, client: httpx.Client, dav: WebDav) -> None:
    """A sweep, and a job that gathers what it has made, all in the workflow's own folder."""
    folder = "flow-$PROMINENCE_WORKFLOW_ID"
    common = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "storage": webdav(dav.url) | {"default": True, "directory": folder},
    }
    task = {"image": stack.image, "runtime": "singularity"}
    document = {
        "name": "handed on",
        "jobs": [
            {**common, "name": "part", "tasks": [{**task, "cmd": "sh -c 'echo $n > p$n'"}], "outputFiles": ["p$n"]},
            {
                **common,
                "name": "sum",
                "tasks": [{**task, "cmd": "cat p1 p2"}],
                "artifacts": [{"url": f"{folder}/p{number}"} for number in (1, 2)],
            },
        ],
        "factories": [
            {
                "name": "parts",
                "type": "parameterSweep",
                "jobs": ["part"],
                "parameters": [{"name": "n", "start": 1, "end": 2, "step": 1}],
            }
        ],
        "dependencies": {"part": ["sum"]},
    }
    answer = client.post("/workflows", json=document)
    assert answer.status_code == 201, answer.text
    flow = int(answer.json()["id"])

    def over() -> dict[str, Any] | None:
        [found] = client.get(f"/workflows/{flow}").json()
        return found if found["status"] in ("completed", "failed") else None

    described = until(over, 120, 0.5, "the workflow ends")
    assert described is not None
    assert described["status"] == "completed", described
    assert sorted(path.name for path in (dav.data / f"flow-{flow}").iterdir()) == ["p1", "p2"]
    assert client.get(f"/workflows/{flow}/sum/stdout").text == "1\n2\n"
    jobs = client.get(
        "/jobs", params={"id": flow, "workflow": "true", "num": -1, "completed": "true", "detail": "true"}
    )
    paths = [item["path"] for job in jobs.json() for item in job.get("outputFiles", ())]
    assert sorted(paths) == [f"flow-{flow}/p1", f"flow-{flow}/p2"]


def test_an_artifact_that_is_not_there(stack: Stack, dav: WebDav) -> None:
    task = {"image": stack.image, "runtime": "singularity", "cmd": "true"}
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [task],
        "artifacts": [{"url": "nowhere.tgz"}],
        "storage": webdav(dav.url) | {"default": True},
    }
    described = stack.wait(stack.submit(document))
    assert (described["status"], described["statusReason"]) == ("failed", "Artifact download failed")


def test_an_image_on_the_volume(stack: Stack, dav: WebDav) -> None:
    archive = next(stack.places.images.glob("*.tar"))
    shutil.copy(archive, dav.data / "image.tar")
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": "/data/image.tar", "runtime": "singularity", "cmd": "cat /data/given"}],
        "storage": webdav(dav.url),
    }
    job = stack.submit(document)
    described = stack.wait(job)
    assert described["status"] == "completed", described
    assert stack.stdout(job) == b"from outside\n"


def test_nobody_is_told_the_password(stack: Stack, client: httpx.Client, dav: WebDav) -> None:
    job = submit(stack, "sleep 300", webdav(dav.url))
    stack.wait(job, "running")
    assert len(mounted()) == 1
    [said] = client.get(f"/jobs/{job}").json()
    account = {"url": dav.url, "username": "***", "password": "***"}
    assert said["storage"] == {"type": "webdav", "mountpoint": "/data", "webdav": account}
    needles = [PASSWORD.encode(), json.dumps(PASSWORD)[1:-1].encode()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        assert not any(needle in words for needle in needles), words
    for log in stack.places.logs.rglob("*"):
        if log.is_file():
            data = log.read_bytes()
            assert not any(needle in data for needle in needles), log
    client.delete(f"/jobs/{job}")
    stack.wait(job, "deleted")
    until(lambda: mounted() == [], 30, what="the volume is unmounted")


def test_a_wrong_password_fails_the_job_with_the_manuals_reason(stack: Stack, dav: WebDav) -> None:
    job = submit(stack, "true", webdav(dav.url, "wrong"))
    described = stack.wait(job)
    assert (described["status"], described["statusReason"]) == ("failed", FAILED)
    assert "wrong" not in json.dumps(described)
    assert mounted() == []


def test_onedata_needs_its_own_client_on_the_node(stack: Stack) -> None:
    account = {"provider": "localhost", "token": "t"}
    job = submit(stack, "true", {"type": "onedata", "mountpoint": "/data", "onedata": account})
    described = stack.wait(job)
    assert (described["status"], described["statusReason"]) == ("failed", FAILED)


def test_a_node_that_is_struck_leaves_no_mount(stack: Stack, dav: WebDav) -> None:
    """The service, and what it started, as if the machine's admin had killed all of it."""
    job = submit(stack, "sh -c 'echo up; sleep 300'", webdav(dav.url))
    stack.wait(job, "running")
    until(lambda: stack.stdout(job), 30)
    stack.restart("node")
    with stack.client() as http:
        assert http.delete(f"/jobs/{job}").status_code == 200
    stack.wait(job, "deleted")
    until(lambda: mounted() == [], 30, what="the volume is unmounted")
