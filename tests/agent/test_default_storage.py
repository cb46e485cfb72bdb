"""A job's storage in the object store's place: outputs, artifacts and images on a real WebDAV server."""

from __future__ import annotations

import io
import os
import re
import tarfile
from typing import Any

import pytest

from tests.unit.agent.test_unpack import file, tar
from tests.webdav import WebDav

from .apiserver import L1, L2, Api, Lease
from .conftest import Agent
from .test_jobs import sh
from .test_outputs import NOT_FOUND, NOT_STORED, outcome, reported
from .test_storage import ANYWHERE, FAILED, dav, lines, nothing_left

__all__ = ["dav"]

pytestmark = pytest.mark.sites

FOLDER = "runs/12"
DOWNLOAD_FAILED = "Artifact download failed"
UNPACK_FAILED = "Artifact uncompress failed"


def stored(path: str, **more: Any) -> dict[str, Any]:
    """An artifact by its path in the container."""
    name = path.rpartition("/")[2]
    found = {"url": "", "filename": name, "mountpoint": None, "executable": False, "sha256": None, "ours": False}
    return found | {"stored": path} | more


def assign(api: Api, dav: WebDav, script: str, files: list[str] = (), dirs: list[str] = (), **changes: Any) -> Lease:  # type: ignore[assignment]
    outputs = [{"kind": "file", "name": name} for name in files] + [{"kind": "dir", "name": name} for name in dirs]
    there = {"outputs": outputs, "outputs_folder": FOLDER, "outputs_on_storage": True, "output_url": ""}
    given = {"storage": dav.storage(), "addresses": ANYWHERE} | there | changes
    return api.assign(given.pop("lease", L1), [sh(script)], **given)


def there(dav: WebDav) -> list[str]:
    return sorted(str(path.relative_to(dav.data)) for path in dav.data.rglob("*") if path.is_file())


def test_outputs_go_there(api: Api, agent: Agent, dav: WebDav) -> None:
    (dav.data / "runs" / "12").mkdir(parents=True)
    (dav.data / "runs" / "12" / "one.dat").write_text("of an earlier run, and longer\n")
    script = "mkdir -p out/d; echo 1 > one.dat; echo 2 > two.dat; echo in > out/d/in; head -c 5000000 /dev/zero > big"
    lease = assign(api, dav, script, ["*.dat", "big"], ["out"])
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    assert there(dav) == [f"{FOLDER}/{name}" for name in ("big", "one.dat", "out.tgz", "two.dat")]
    assert (dav.data / FOLDER / "one.dat").read_text() == "1\n"
    assert (dav.data / FOLDER / "big").read_bytes() == bytes(5_000_000)
    with tarfile.open(fileobj=io.BytesIO((dav.data / FOLDER / "out.tgz").read_bytes())) as archive:
        assert archive.getnames() == ["out", "out/d", "out/d/in"]
    first = next(one for one in reported(lease) if one["name"] == "one.dat")
    assert (first["asked"], first["kind"], first["file"], first["size"]) == ("*.dat", "file", "one.dat", 2)
    said = [line for line in lines(lease) if line.startswith("Output one.dat")]
    assert re.fullmatch(
        r"Output one.dat: 2 bytes stored as runs/12/one.dat on the job's storage in \d+\.\d s \(.*/s\)", said[0]
    )
    assert lease.end is not None
    assert lease.end["execution"]["stageOutTime"] > 0
    assert api.outputs_asked == []
    nothing_left(agent, L1)


def test_outputs_of_a_job_that_passed_its_walltime(api: Api, agent: Agent, dav: WebDav) -> None:
    """The mount ends with the tasks; what they have made by then is stored all the same."""
    script = "head -c 5000000 /dev/zero > partial; sleep 300"
    lease = assign(api, dav, script, ["partial"], resources={"walltime_s": 5})
    api.wait(lambda: lease.end, 60)
    assert outcome(lease) == ("killed", "Walltime limit exceeded", False), lines(lease)
    assert (dav.data / FOLDER / "partial").stat().st_size == 5_000_000
    assert [one["name"] for one in reported(lease)] == ["partial"]
    nothing_left(agent, L1)


def test_what_is_missing_fails_the_job(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, "echo 1 > a", ["missing", "a"])
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("failed", NOT_FOUND, False)
    assert there(dav) == [f"{FOLDER}/a"]


@pytest.mark.parametrize("before", ["runs", "runs/12/a/in"])
def test_where_something_else_is_in_the_way(api: Api, agent: Agent, dav: WebDav, before: str) -> None:
    """A file in a folder's place, or a folder in a file's: it stays as it was."""
    way = dav.data / before
    way.parent.mkdir(parents=True, exist_ok=True)
    way.write_text("mine\n")
    lease = assign(api, dav, "echo 1 > a", ["a"])
    api.wait(lambda: lease.end, 60)
    assert outcome(lease) == ("failed", NOT_STORED, False), lines(lease)
    assert there(dav) == [before]
    assert way.read_text() == "mine\n"
    assert "Output a: the job's storage " in lines(lease)[-1], lines(lease)


def test_artifacts_come_from_there(api: Api, agent: Agent, dav: WebDav) -> None:
    (dav.data / "in").mkdir()
    (dav.data / "in" / "set.tar").write_bytes(tar(file("d/run.sh", b"#!/bin/sh\necho ran\n", 0o755)))
    (dav.data / "tool").write_text("#!/bin/sh\necho tool\n")
    (dav.data / "plain").write_text("plain\n")
    artifacts = [stored("/data/in/set.tar"), stored("/data/tool", executable=True), stored("/data/plain")]
    lease = assign(api, dav, "./d/run.sh; ./tool; cat plain; ls; stat -c %u d/run.sh plain; id -u", artifacts=artifacts)
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    *said, one, two, uid = bytes(lease.streams["stdout"]).decode().splitlines()
    assert said == ["ran", "tool", "plain", "d", "plain", "tool"]
    assert {one, two} == {uid}
    assert re.fullmatch(
        r"Artifact set.tar: 10.2 KB read from the job's storage and unpacked to 1 file of 19 bytes in \d+\.\d s",
        lines(lease)[1],
    )
    nothing_left(agent, L1)


@pytest.mark.parametrize(
    ("name", "reason", "sentence"),
    [
        ("nowhere", DOWNLOAD_FAILED, "on the job's storage, /data/nowhere: no such file or directory"),
        ("folder", DOWNLOAD_FAILED, "/data/folder on the job's storage is no file"),
        ("bad.tgz", UNPACK_FAILED, ""),
        ("large", DOWNLOAD_FAILED, "it is larger than the 1.0 MB that are left of the job's disk"),
    ],
)
def test_artifacts_that_can_not_be_had(
    api: Api, agent: Agent, dav: WebDav, name: str, reason: str, sentence: str
) -> None:
    (dav.data / "folder").mkdir()
    (dav.data / "bad.tgz").write_text("no archive\n")
    (dav.data / "large").write_bytes(bytes(1_100_000))
    lease = assign(api, dav, "echo no", artifacts=[stored(f"/data/{name}")], resources={"disk_mb": 1})
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("failed", reason, False), lines(lease)
    assert lines(lease)[-1].startswith(f"Artifact {name}: {sentence}")
    assert not lease.streams["stdout"]
    nothing_left(agent, L1)


def test_a_volume_that_can_not_be_mounted_is_told_before_what_lies_on_it(api: Api, agent: Agent, dav: WebDav) -> None:
    lease = assign(api, dav, "echo no", ["a"], artifacts=[stored("/data/x")], storage=dav.storage(password="wrong"))
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("failed", FAILED, False)
    assert "stage_out" not in lease.kinds()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's jobs are its own")
def test_it_is_read_and_written_as_the_jobs_user(api: Api, agent: Agent, dav: WebDav) -> None:
    """What only root may read is no output, however it is named."""
    secret = agent.state / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    lease = assign(api, dav, f"ln -s {secret} leak; ln {secret} hard; echo 1 > a", ["leak", "a"], lease=L2)
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("failed", NOT_FOUND, False)
    assert there(dav) == [f"{FOLDER}/a"]
