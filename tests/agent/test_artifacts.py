"""Artifacts on their way into a job: fetched once a node, unpacked as the job's user, or refused with the reason."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import signal
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.agent.test_unpack import file, other, tar, zipped

from .apiserver import L0, L1, L2, L3, Api, Lease, lease_name
from .conftest import Agent, eventually
from .fileserver import FileServer
from .test_jobs import sh

DATA = random.Random(3).randbytes(2_000_000)
ARCHIVE = gzip.compress(tar(file("d/run.sh", b"#!/bin/sh\necho ran\n", 0o4755), file("d/data", DATA)), 1)


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def artifact(url: str, **more: Any) -> dict[str, Any]:
    name = url.partition("?")[0].rpartition("/")[2]
    found = {"url": url, "filename": name, "mountpoint": None, "executable": False, "sha256": None, "ours": False}
    return found | more


def assign(api: Api, lease: str, *artifacts: dict[str, Any], script: str = "true", **changes: Any) -> Lease:
    changes = {"addresses": {"private": False, "loopback": True}} | changes
    return api.assign(lease, [sh(script)], artifacts=list(artifacts), **changes)


def lines(lease: Lease) -> list[str]:
    return [report["data"]["message"] for report in lease.reports if report["kind"] == "log"]


def failed(lease: Lease, reason: str) -> str:
    """The job has ended with this reason before any task; what its story says of it."""
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"], lease.end["node_success"]) == ("failed", reason, False)
    assert "running" not in lease.kinds()
    return lines(lease)[-1]


def test_artifacts_come_before_the_tasks(api: Api, agent: Agent, files: FileServer) -> None:
    show = 'find . -type f | sort; ./d/run.sh; cmp d/data plain.bin && ./tool; stat -c "%u %a" . d/run.sh tool; id -u'
    lease = assign(
        api,
        L1,
        artifact(files.add("a.tgz", ARCHIVE)),
        artifact(files.add("plain.bin", DATA)),
        artifact(files.add("tool.gz", gzip.compress(b"#!/bin/sh\necho tool\n")), executable=True),
        script=show,
        inputs=[{"filename": "plain.txt", "content": "aGk=", "executable": False}],
    )
    api.wait(lambda: lease.end)
    *listed, ran, tool, home, run, made, uid = bytes(lease.streams["stdout"]).decode().splitlines()
    assert listed == ["./d/data", "./d/run.sh", "./plain.bin", "./plain.txt", "./tool"]
    assert (ran, tool) == ("ran", "tool")
    assert (home, run, made) == (f"{uid} 700", f"{uid} 755", f"{uid} 755")
    first, second, third = lines(lease)
    host = re.escape(files.base.removeprefix("http://"))
    done = (
        rf"Artifact a\.tgz: 2\.0 MB fetched from {host} in \d\.\d s \([\d.]+ [KMG]B/s\), unpacked to 2 files of 2\.0 MB"
    )
    assert re.fullmatch(done + r" in \d\.\d s", first), first
    assert re.fullmatch(rf"Artifact plain\.bin: 2\.0 MB fetched from {host} in \d\.\d s \(.*/s\)", second)
    assert "unpacked to 1 file of 20 bytes" in third
    assert lease.kinds() == ["stage_in", "log", "log", "log", "pulled", "running", "task", "end"]
    assert lease.end is not None
    assert lease.end["execution"]["stageInTime"] > 0
    agent.forget(L1)


def test_the_second_job_on_a_node_fetches_nothing(api: Api, agent: Agent, files: FileServer) -> None:
    both = [artifact(files.add("a.tgz", ARCHIVE)), artifact(files.add("b.bin", DATA), executable=True)]
    first = assign(api, L1, *both, script="echo spoiled > d/data; echo spoiled > b.bin; rm d/run.sh")
    api.wait(lambda: first.end)
    sent = files.bytes_sent("a.tgz") + files.bytes_sent("b.bin")
    second = assign(api, L2, *both, script="md5sum d/data b.bin; ./d/run.sh; stat -c %U:%a b.bin", owner="bob")
    api.wait(lambda: second.end)
    digest = hashlib.md5(DATA).hexdigest()
    one, two, ran, mode = bytes(second.streams["stdout"]).decode().splitlines()
    assert (one, two, ran) == (f"{digest}  d/data", f"{digest}  b.bin", "ran")
    assert mode.endswith(":755")
    assert files.bytes_sent("a.tgz") + files.bytes_sent("b.bin") == sent
    assert [asked.status for asked in files.gets("a.tgz")] == [200, 304]
    assert re.fullmatch(
        r"Artifact a\.tgz: 2\.0 MB taken from the node's cache in \d\.\d s, unpacked to 2 files of 2\.0 MB",
        lines(second)[0],
    )
    agent.forget(L1, L2)


def test_what_has_changed_is_fetched_again(api: Api, agent: Agent, files: FileServer) -> None:
    url = files.add("x", b"old")
    for lease, content in ((L1, b"old"), (L2, b"new"), (L3, b"new")):
        files.files["/x"].data = content
        made = assign(api, lease, artifact(url), script="cat x")
        api.wait(lambda made=made: made.end)
        assert bytes(made.streams["stdout"]) == content
    assert [asked.status for asked in files.gets("x")] == [200, 200, 304]


def test_jobs_at_once_fetch_once(api: Api, agent: Agent, files: FileServer) -> None:
    url = files.add("x.tgz", ARCHIVE, piece=200_000, pause_s=0.1)
    leases = [assign(api, lease_name(number), artifact(url), script="./d/run.sh") for number in range(4)]
    api.wait(lambda: all(lease.end for lease in leases), 40)
    assert [bytes(lease.streams["stdout"]) for lease in leases] == [b"ran\n"] * 4
    assert files.bytes_sent("x.tgz") == len(ARCHIVE)
    told = sorted(line for lease in leases for line in lines(lease))
    assert sum("fetched from" in line for line in told) == 1
    assert sum(line.partition(",")[2].startswith(" for which another job had fetched it") for line in told) == 3


def test_what_is_private_is_not_shared(api: Api, agent: Agent, files: FileServer) -> None:
    """The same URL of ours, but for its signature: another owner gets nothing of it without the server's word."""
    data = b"private" * 1000
    url = files.add("x", data)
    sha256 = hashlib.sha256(data).hexdigest()
    ours = artifact(url + "?signature=1", ours=True, sha256=sha256)
    nowhere = {"private": False, "loopback": False}
    first = assign(api, L0, ours, script="cat x", addresses=nowhere, owner="alice")
    api.wait(lambda: first.end)
    assert bytes(first.streams["stdout"]) == data
    assert lines(first)[0].startswith("Artifact x: 7.0 KB fetched from the object store in ")
    assert "signature" not in str(first.reports)
    # the owner's own second job needs not even ask: the checksum says it all
    files.files["/x"].refusals = [403]
    second = assign(api, L1, dict(ours, url=url + "?signature=2"), script="cat x", addresses=nowhere, owner="alice")
    api.wait(lambda: second.end)
    assert bytes(second.streams["stdout"]) == data
    assert len(files.gets("x")) == 1
    third = assign(api, L2, dict(ours, url=url + "?signature=guessed"), addresses=nowhere, owner="mallory")
    api.wait(lambda: third.end)
    assert failed(third, "Artifact download failed") == "Artifact x: 127.0.0.1 answered 403"


def test_a_wrong_checksum_is_no_artifact(api: Api, agent: Agent, files: FileServer) -> None:
    lease = assign(api, L1, artifact(files.add("x", b"x"), ours=True, sha256="0" * 64))
    api.wait(lambda: lease.end)
    assert "its sha256 is" in failed(lease, "Artifact download failed")


def test_without_a_version_nothing_is_kept(api: Api, agent: Agent, files: FileServer) -> None:
    both = [
        artifact(files.add("a.tgz", ARCHIVE, etag=None)),
        artifact(files.add("b.bin", DATA, etag=None, chunked=True), executable=True),
    ]
    for name in (L1, L2):
        lease = assign(
            api, name, *both, script="./d/run.sh; cmp b.bin d/data && stat -c %a b.bin; ls -A | tr '\\n' ' '"
        )
        api.wait(lambda lease=lease: lease.end)
        assert bytes(lease.streams["stdout"]) == b"ran\n755\nb.bin d "
    assert files.bytes_sent("a.tgz") == 2 * len(ARCHIVE)
    assert not list((agent.state / "cache" / "artifacts" / "entries").iterdir())


def test_a_broken_connection_costs_the_rest_only(api: Api, agent: Agent, files: FileServer) -> None:
    lease = assign(api, L1, artifact(files.add("x", DATA, breaks_after=[1_000_000])), script="md5sum x")
    api.wait(lambda: lease.end)
    assert bytes(lease.streams["stdout"]).startswith(hashlib.md5(DATA).hexdigest().encode())
    assert "in 2 tries" in lines(lease)[0]
    assert [asked.status for asked in files.gets("x")] == [200, 206]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("escape.tar", tar(file("../../escaped"))),
        ("link.tar", tar(other("l", tarfile.SYMTYPE, "/tmp"), file("l/escaped"))),
        ("noise.tgz", b"noise" * 100),
        ("bomb.gz", gzip.compress(bytes(30_000_000))),
        ("bomb.zip", zipped(("bomb", bytes(30_000_000), 0))),
        ("cut.tgz", ARCHIVE[: len(ARCHIVE) // 2]),
    ],
)
def test_archives_that_cannot_be_unpacked(api: Api, agent: Agent, files: FileServer, name: str, data: bytes) -> None:
    lease = assign(api, L1, artifact(files.add(name, data)), resources={"disk_mb": 20})
    api.wait(lambda: lease.end)
    assert re.match(rf"Artifact {name}: (it|the path) ", failed(lease, "Artifact uncompress failed"))
    assert not lease.streams["stderr"]
    assert not list((agent.state / "cache" / "artifacts" / "entries").iterdir())
    assert not list((agent.state / "cache" / "artifacts" / "tmp").iterdir())
    assert not os.path.exists("/tmp/escaped")
    agent.forget(L1)


def test_artifacts_share_the_jobs_disk(api: Api, agent: Agent, files: FileServer) -> None:
    both = [artifact(files.add("a", DATA)), artifact(files.add("b", DATA))]
    lease = assign(api, L1, *both, resources={"disk_mb": 3})
    api.wait(lambda: lease.end)
    assert "it has 2.0 MB, more than the 1.1 MB that are left of" in failed(lease, "Artifact download failed")
    # the same when they come from the cache
    lease = assign(api, L2, *both, resources={"disk_mb": 4})
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert lease.end["status"] == "completed"
    lease = assign(api, L3, *both, resources={"disk_mb": 3})
    api.wait(lambda: lease.end)
    assert "it takes 2.0 MB, more than the 1.1 MB" in failed(lease, "Artifact download failed")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is a link-local or metadata address"),
        ("http://[fd00:ec2::254]/latest", "fd00:ec2::254 is a link-local or metadata address"),
        ("http://10.255.255.1/x", "10.255.255.1 is in a private network, which the setting private_network_sites"),
        ("http://127.0.0.1:{port}/x", "127.0.0.1 is a loopback address of the node, which the setting loopback_sites"),
        ("http://localhost:{port}/x", "is a loopback address of the node"),
        ("http://0.0.0.0:{port}/x", "0.0.0.0 is a loopback address of the node"),
        ("http://[::ffff:127.0.0.1]:{port}/x", "is a loopback address of the node"),
    ],
)
def test_addresses_that_nothing_is_taken_from(
    api: Api, agent: Agent, files: FileServer, url: str, sentence: str
) -> None:
    files.add("x", b"x")
    nowhere = {"private": False, "loopback": False}
    lease = assign(api, L1, artifact(url.format(port=files.port)), addresses=nowhere)
    api.wait(lambda: lease.end)
    assert sentence in failed(lease, "Artifact download failed")
    assert files.asked == []


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://10.0.0.1/x", "file:///etc/passwd"])
def test_redirects_that_are_not_followed(api: Api, agent: Agent, files: FileServer, target: str) -> None:
    lease = assign(api, L1, artifact(files.add("x", b"", redirect=target)))
    api.wait(lambda: lease.end)
    failed(lease, "Artifact download failed")


def test_a_missing_file_ends_the_job_at_once(api: Api, agent: Agent, files: FileServer) -> None:
    lease = assign(api, L1, artifact(files.url("missing.tgz")), artifact(files.add("later", b"x")))
    api.wait(lambda: lease.end)
    assert failed(lease, "Artifact download failed") == "Artifact missing.tgz: 127.0.0.1 answered 404"
    assert [asked.path for asked in files.asked] == ["/missing.tgz"]


def test_a_job_is_ended_in_the_middle_of_its_download(api: Api, agent: Agent, files: FileServer) -> None:
    lease = assign(api, L1, artifact(files.add("x", DATA, piece=1000, pause_s=0.1)))
    eventually(lambda: files.bytes_sent("x") > 5000)
    began = time.monotonic()
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 2}
        api.lock.notify_all()
    api.wait(lambda: lease.end)
    assert time.monotonic() - began < 5
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("killed", "Job deleted by user")
    agent.forget(L1)


@pytest.mark.parametrize("victims", [["runner"], ["guard"], ["runner", "guard"]])
def test_kills_in_the_middle_of_a_download(api: Api, agent: Agent, files: FileServer, victims: list[str]) -> None:
    url = files.add("x", DATA, piece=1000, pause_s=0.05)
    lease = assign(api, L1, artifact(url))
    eventually(lambda: files.bytes_sent("x") > 5000)
    pids = [agent.pid(L1, who) for who in victims]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    api.wait(lambda: lease.end or lease.lost, 30)
    agent.forget(L1)
    assert len(agent.processes()) == 1
    # whoever comes next waits for nobody, and what was left behind goes
    files.files["/x"].pause_s = 0
    tmp = agent.state / "cache" / "artifacts" / "tmp"
    for left in tmp.iterdir():
        os.utime(left, (0, 0))
    second = assign(api, L2, artifact(url), script="md5sum x")
    api.wait(lambda: second.end)
    assert bytes(second.streams["stdout"]).startswith(hashlib.md5(DATA).hexdigest().encode())
    eventually(lambda: not list(tmp.iterdir()), what="what the dead left behind is swept")


def test_a_folder_that_is_to_be_mounted_must_be_one(api: Api, agent: Agent, files: FileServer) -> None:
    evil = tar(other("data", tarfile.SYMTYPE, "/etc"))
    for name, archive, sentence in (
        (L1, evil, "'data' is to be mounted, but it is no folder"),
        (L2, tar(file("x")), "No artifact brought the folder 'data'"),
    ):
        lease = assign(api, name, artifact(files.add(f"{name}.tar", archive), mountpoint="data:/mnt"))
        api.wait(lambda lease=lease: lease.end)
        assert sentence in failed(lease, "Artifact uncompress failed")


def test_artifacts_in_folders_of_their_own(api: Api, agent: Agent, files: FileServer) -> None:
    """Those of one name, packed or not, kept in the node's cache or not, and whatever was there before."""
    link = gzip.compress(tar(other("d", tarfile.SYMTYPE, "/etc"), file("f", b"f")), 1)
    lease = assign(
        api,
        L1,
        artifact(files.add("0/x", b"zero"), folder="scan job/0"),
        artifact(files.add("1/x", b"#!/bin/sh\necho one\n"), folder="scan job/1", executable=True),
        artifact(files.add("2/a.tgz", ARCHIVE), folder="scan job/2"),
        artifact(files.add("3/b.tgz", ARCHIVE, etag=None), folder="scan job/3"),
        artifact(files.add("4/x", b"plain", etag=None), folder="scan job/4"),
        artifact(files.add("x", b"own"), mountpoint="scan job:/all"),
        script='find . -type f | sort; cat scan*/0/x; scan*/1/x; scan*/3/d/run.sh; stat -c "%u" scan*; id -u',
    )
    api.wait(lambda: lease.end)
    out = bytes(lease.streams["stdout"]).decode()
    assert out.splitlines()[:8] == [
        "./scan job/0/x",
        "./scan job/1/x",
        "./scan job/2/d/data",
        "./scan job/2/d/run.sh",
        "./scan job/3/d/data",
        "./scan job/3/d/run.sh",
        "./scan job/4/x",
        "./x",
    ]
    assert re.search(r"zeroone\nran\n(\d+)\n\1\n$", out), out
    assert lines(lease)[0].startswith("Artifact scan job/0/x: ")
    refused = assign(api, L2, artifact(files.add("l.tgz", link)), artifact(files.add("y", b"y"), folder="d/0"))
    api.wait(lambda: refused.end)
    assert "leads through a link" in failed(refused, "Artifact uncompress failed")
    agent.forget(L1, L2)


def test_what_the_api_knows_to_be_missing_ends_the_job(api: Api, agent: Agent) -> None:
    lease = assign(api, L1, artifact("", filename="x", folder="a/1", missing="a/1 has left no such output"))
    api.wait(lambda: lease.end)
    assert failed(lease, "Artifact download failed") == "Artifact a/1/x: a/1 has left no such output"
    agent.forget(L1)
