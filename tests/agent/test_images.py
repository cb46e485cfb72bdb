"""Images of every kind on a node: uploads by signed URLs, files on the job's volume, and what can't be had."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.agent.images.build import Entry
from airflow_prominence.agent.images.demo import base_entries, host_entries
from tests.runtimes.sifwriter import sif, squashfs
from tests.webdav import WebDav, need_mounts

from .apiserver import L1, L2, Api, Lease
from .conftest import Agent
from .fileserver import FileServer
from .test_jobs import sh

ANYWHERE = {"private": True, "loopback": True}
FAILED = "Container image pull failed"
APP = b'#!/bin/sh\necho app $SINGULARITY_APPNAME "$@"\n'
RUNSCRIPT = b'#!/bin/sh\necho run "$@"\n'


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture(scope="module")
def singularity_image() -> bytes:
    scripts = [Entry(".singularity.d/runscript", 0o755, RUNSCRIPT), Entry("scif/apps/tool/scif/runscript", 0o755, APP)]
    return sif(squashfs([*base_entries(), *host_entries(("sh", "cat", "echo")), *scripts]))


def lines(lease: Lease) -> list[str]:
    return [report["data"]["message"] for report in lease.reports if report["kind"] == "log"]


def ended(api: Api, lease: Lease) -> tuple[str, str, str]:
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None, lines(lease)
    return lease.end["status"], lease.end["reason"], bytes(lease.streams["stdout"]).decode()


def test_an_uploaded_singularity_image(api: Api, node: Agent, files: FileServer, singularity_image: bytes) -> None:
    url = files.add("up/mine.sif", singularity_image) + "?signature="
    sha256 = hashlib.sha256(singularity_image).hexdigest()
    by_name = {"image": "mine.sif", "image_url": url + "one", "sha256": sha256}
    tasks = [sh("cat /.singularity.d/runscript | { read x; echo $x; }", **by_name), {"argv": None, **by_name}]
    tasks.append({"argv": ["a b"], "app": "tool", **by_name})
    # the deployment's own store may be anywhere: the rules for users' addresses are not for it
    lease = api.assign(L1, tasks)
    assert ended(api, lease) == ("completed", "", "#!/bin/sh\nrun\napp tool a b\n"), lines(lease)
    assert lease.end is not None
    pulls = lease.end["execution"]["tasks"]
    assert [task["imagePullStatus"] for task in pulls] == ["completed", "cached", "cached"]
    assert pulls[0]["imagePullTime"] > 0
    assert [task["imagePullTime"] for task in pulls[1:]] == [-1, -1]
    assert {task["imageSha256"] for task in pulls} == {sha256}
    # the next job asks with a signature of its own and gets what is on the node
    again = api.assign(L2, [{"argv": None, **by_name, "image_url": url + "two"}])
    assert ended(api, again)[2] == "run\n"
    assert again.end is not None
    [pull] = again.end["execution"]["tasks"]
    assert (pull["imagePullStatus"], pull["imagePullTime"], pull["imageSha256"]) == ("cached", -1, sha256)
    assert [asked.status for asked in files.gets("up/mine.sif")] == [200, 304]
    pulled = [report["data"] for report in again.reports if report["kind"] == "pulled"]
    assert pulled == [{"task": 0, "status": "cached", "seconds": -1, "sha256": sha256}]
    node.forget(L1, L2)


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_an_uploaded_archive(api: Api, node: Agent, files: FileServer, images: Path, runtime: str) -> None:
    data = gzip.compress((images / "demo.tar").read_bytes(), 1)
    by_name = {"image": "mine.tgz", "image_url": files.add("mine.tgz", data), "runtime": runtime}
    lease = api.assign(L1, [sh("echo in $PROMINENCE_CONTAINER_RUNTIME", **by_name)])
    assert ended(api, lease) == ("completed", "", f"in {runtime}\n"), lines(lease)
    node.forget(L1)


def test_a_pull_is_tried_again_and_its_time_is_told(
    api: Api, node: Agent, files: FileServer, singularity_image: bytes
) -> None:
    size = len(singularity_image)
    url = files.add("mine.sif", singularity_image, refusals=[503, 429], retry_after="1", breaks_after=[size // 2])
    lease = api.assign(L1, [{"argv": None, "image": "mine.sif", "image_url": url}])
    assert ended(api, lease) == ("completed", "", "run\n"), lines(lease)
    said = [line for line in lines(lease) if "trying again" in line]
    assert len(said) == 3
    assert "answered 503" in said[0]
    assert "rate limit" in said[1]
    assert "broke off" in said[2]
    # what had come was kept
    assert files.bytes_sent("mine.sif") < size + 70_000
    assert lease.end is not None
    assert lease.end["execution"]["tasks"][0]["imagePullTime"] > 2
    node.forget(L1)


def test_what_cannot_be_pulled_fails_with_its_last_line(
    api: Api, node: Agent, files: FileServer, singularity_image: bytes
) -> None:
    good = files.add("mine.sif", singularity_image)
    wrong = {
        "image: gone.sif does not exist any more among the uploads": {
            "image": "gone.sif",
            "image_refusal": "image: gone.sif does not exist any more among the uploads",
        },
        "image: mine.sif: there is no such file (404)": {"image": "mine.sif", "image_url": files.url("missing")},
        "is not the one that imageSha256 names": {"image": "mine.sif", "image_url": good, "sha256": "0" * 64},
        "image: /data/x.sif is not on a storage of the job": {"image": "/data/x.sif"},
        "setting loopback_sites does not allow": {"image": good},
        "is not a valid image name": {"image": "Not/Valid"},
        "is not shub://[host/]user/repository[:tag]": {"image": "shub://x"},
    }
    for number, (sentence, task) in enumerate(wrong.items()):
        name = f"{L1}-{number}"
        lease = api.assign(name, [sh("echo never", **task)])
        assert ended(api, lease) == ("failed", FAILED, ""), lines(lease)
        assert sentence in lines(lease)[-1]
        assert lease.end is not None
        assert lease.end["node_success"] is False
        [pull] = lease.end["execution"]["tasks"]
        assert set(pull) == {"imagePullStatus", "imagePullTime", "imagePullError"}
        assert (pull["imagePullStatus"], pull["imagePullError"]) == ("failed", lines(lease)[-1])
        assert "running" not in lease.kinds()
        node.forget(name)


def test_a_registry_of_singularity_images(api: Api, node: Agent, files: FileServer, singularity_image: bytes) -> None:
    found = json.dumps({"image": files.add("store/tool.sif", singularity_image)}).encode()
    files.add("api/container/user/tool:v1", found)
    files.add("api/container/user/moved:latest", json.dumps({"image": "file:///etc/passwd"}).encode())
    host = f"127.0.0.1:{files.port}"
    good = api.assign(L1, [{"argv": None, "image": f"shub://{host}/user/tool:v1"}], addresses=ANYWHERE)
    assert ended(api, good) == ("completed", "", "run\n"), lines(good)
    for name, sentence in (("missing", f"was not found at {host}"), ("moved", f"{host} names no address of the image")):
        bad = api.assign(f"{L2}-{name}", [{"argv": None, "image": f"shub://{host}/user/{name}"}], addresses=ANYWHERE)
        assert ended(api, bad)[:2] == ("failed", FAILED)
        assert lines(bad)[-1].endswith(sentence)
        node.forget(f"{L2}-{name}")
    node.forget(L1)


def test_an_image_on_the_jobs_volume(api: Api, node: Agent, folder: Path, singularity_image: bytes) -> None:
    need_mounts()
    dav = WebDav(folder / "dav")
    dav.start()
    try:
        (dav.data / "images").mkdir()
        (dav.data / "images" / "mine.sif").write_bytes(singularity_image)
        there = {"argv": None, "image": "/data/images/mine.sif"}
        more = {"storage": dav.storage(), "addresses": ANYWHERE}
        lease = api.assign(L1, [there], **more)
        assert ended(api, lease) == ("completed", "", "run\n"), lines(lease)
        again = api.assign(L2, [there, {"argv": None, "image": "/data/images/missing.sif"}], **more)
        assert ended(api, again)[:2] == ("failed", FAILED)
        assert lines(again)[-1] == "image: /data/images/missing.sif is not on the job's storage, or not readable there"
        assert again.end is not None
        assert [task["imagePullStatus"] for task in again.end["execution"]["tasks"]] == ["cached", "failed"]
        node.forget(L1, L2)
    finally:
        dav.kill()
