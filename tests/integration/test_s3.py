"""A stack that keeps its objects in a bucket: the real client and the node both go there by themselves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import keep_logs
from tests.integration.stacks import Stack, until
from tests.s3 import S3Server

pytestmark = pytest.mark.sites

BUCKET = "prominence"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    try:
        server.start()
        server.make_bucket(BUCKET)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def bucket_stack(request: pytest.FixtureRequest, s3: S3Server) -> Iterator[Stack]:
    """Set up as an admin would: an option, and a connection in Airflow."""
    home = Path(tempfile.mkdtemp(prefix="prominence-s3-stack-"))
    home.chmod(0o755)
    running = Stack(home, {"AIRFLOW__PROMINENCE__OBJECT_STORAGE": f"s3://science_store@{BUCKET}/batch"})
    try:
        running.up()
        given = s3.connection()
        added = running.run_airflow(
            *("connections", "add", "science_store", "--conn-type", given["conn_type"]),
            *("--conn-login", given["login"], "--conn-password", given["password"]),
            *("--conn-extra", json.dumps(given["extra"])),
        )
        assert added.code == 0, added
        yield running
    finally:
        running.stop()
        if request.session.testsfailed:
            keep_logs(running)
        shutil.rmtree(home, ignore_errors=True)


def test_uploads_are_in_the_bucket_and_reach_jobs(bucket_stack: Stack, s3: S3Server, tmp_path: Path) -> None:
    line = os.urandom(16).hex()
    stack, data = bucket_stack, f"{line}\n".encode() + os.urandom(5 << 20)
    (tmp_path / "data").write_bytes(data)
    done = stack.run_cli("upload", "--name", "my data.bin", "--filename", "data", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "Success\n"), done
    assert s3.read(BUCKET, "batch/uploads/demo/my data.bin") == data
    wrong = hashlib.sha256(b"another").hexdigest()
    refused = stack.run_cli("upload", "--name", "x", "--filename", "data", "--checksum", wrong, cwd=tmp_path)
    assert (refused.code, "400" in refused.stdout) == (1, True), refused
    assert stack.run_cli("ls", cwd=tmp_path).stdout == "my data.bin\n"
    assert stack.run_cli("ls", cwd=tmp_path, token=stack.other_token).stdout == ""
    listed = stack.run_cli("ls", "-l", cwd=tmp_path).stdout
    assert re.fullmatch(r"my data\.bin +5242913 +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", listed), listed
    made = stack.run_cli(
        *("create", "--artifact", "my data.bin", "--output", "made.txt", "--outputdir", "all", stack.image),
        "sh -c 'read -r line <\"my data.bin\"; echo $line; mkdir all; echo $line | tee made.txt >all/x'",
        cwd=tmp_path,
    )
    [job] = re.findall(r"^Job created with id (\d+)$", made.stdout, re.MULTILINE)
    described = stack.wait(int(job))
    assert (described["status"], described["execution"]["tasks"][0]["exitCode"]) == ("completed", 0), described
    assert stack.stdout(int(job)).decode() == f"{line}\n"
    [(uid,)] = stack.psql("SELECT uid FROM prominence_job WHERE id = %s", int(job))
    assert s3.read(BUCKET, f"batch/scratch/{uid}/made.txt").decode() == f"{line}\n"
    assert stack.run_cli("download", job, cwd=tmp_path).code == 0
    assert (tmp_path / "made.txt").read_text() == f"{line}\n"
    with tarfile.open(tmp_path / "all.tgz") as tar:
        assert tar.getnames() == ["all", "all/x"]
    url = stack.describe(int(job))["outputFiles"][0]["url"]
    assert url.startswith(f"{s3.endpoint}/{BUCKET}/batch/scratch/{uid}/made.txt?")
    assert "X-Amz-Expires=604800" in url
    assert not [path for path in stack.places.objects.rglob("*") if path.is_file()]
    done = stack.run_cli("rm", "my data.bin", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "Success\n"), done
    assert stack.run_cli("ls", cwd=tmp_path).stdout == ""


def test_snapshots_of_a_running_job_are_in_the_bucket(bucket_stack: Stack, s3: S3Server, tmp_path: Path) -> None:
    """A file and a folder, by the real client; each takes the place of the one before."""
    stack = bucket_stack
    script = (
        "mkdir -p out/deep; head -c 12000000 /dev/urandom >out/big; echo two >out/deep/b; sha256sum <out/big >sum;"
        " echo up; while ! test -e over; do sleep 0.2; done"
    )
    made = stack.run_cli("create", stack.image, f"sh -c {shlex.quote(script)}", cwd=tmp_path)
    [job] = re.findall(r"^Job created with id (\d+)$", made.stdout, re.MULTILINE)
    until(lambda: b"up\n" in stack.stdout(int(job)), 60)
    [(uid,)] = stack.psql("SELECT uid FROM prominence_job WHERE id = %s", int(job))
    key = f"batch/snapshots/{uid}/snapshot.tgz"

    def members(path: str) -> dict[str, bytes | None]:
        done = stack.run_cli("snapshot", job, path, cwd=tmp_path)
        assert (done.code, done.stderr) == (0, ""), done
        assert done.stdout.startswith('Creating snapshot...\nDownloading file "snapshot.tgz"\n'), done
        downloaded = (tmp_path / "snapshot.tgz").read_bytes()
        assert downloaded == s3.read(BUCKET, key)
        with tarfile.open(tmp_path / "snapshot.tgz") as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            return {name: None if file is None else file.read() for name, file in files.items()}

    whole = members("out")
    assert {name: data for name, data in whole.items() if name != "out/big"} == {
        "out": None,
        "out/deep": None,
        "out/deep/b": b"two\n",
    }
    summed = members("sum")
    big = whole["out/big"]
    assert big is not None
    assert len(big) == 12_000_000
    assert summed == {"sum": f"{hashlib.sha256(big).hexdigest()}  -\n".encode()}
    with stack.client() as client:
        url = client.get(f"/jobs/{job}/snapshot").json()["url"]
    assert url.startswith(f"{s3.endpoint}/{BUCKET}/{key}?")
    assert "X-Amz-Expires=3600" in url
    refused = stack.run_cli("snapshot", job, "nothing", cwd=tmp_path)
    assert (refused.code, "no such file or directory" in refused.stdout) == (1, True), refused
    assert stack.run_cli("exec", job, "touch over", cwd=tmp_path).code == 0
    assert stack.wait(int(job))["status"] == "completed"
    assert not [path for path in stack.places.objects.rglob("*") if path.is_file()]


def test_a_bucket_that_does_not_answer_has_no_snapshot(bucket_stack: Stack, s3: S3Server, tmp_path: Path) -> None:
    stack = bucket_stack
    made = stack.run_cli("create", stack.image, "sh -c 'echo kept >here; echo up; sleep 300'", cwd=tmp_path)
    [job] = re.findall(r"^Job created with id (\d+)$", made.stdout, re.MULTILINE)
    until(lambda: b"up\n" in stack.stdout(int(job)), 60)
    s3.stop()
    try:
        failed = stack.run_cli("snapshot", job, "here", cwd=tmp_path)
    finally:
        s3.start()
    assert failed.code == 1, failed
    assert failed.stdout.startswith("Creating snapshot...\nError: Unable to create snapshot: "), failed
    assert not (tmp_path / "snapshot.tgz").exists()
    done = stack.run_cli("snapshot", job, "here", cwd=tmp_path)
    assert done.code == 0, done
    with tarfile.open(tmp_path / "snapshot.tgz") as archive:
        assert archive.getnames() == ["here"]
    assert stack.run_cli("delete", job, cwd=tmp_path).code == 0
    stack.wait(int(job))


def test_check_config_asks_the_bucket(bucket_stack: Stack, s3: S3Server) -> None:
    assert "object_storage" not in bucket_stack.run_airflow("prominence", "check-config").stdout
    s3.stop()
    checked = bucket_stack.run_airflow("prominence", "check-config")
    assert (checked.code, "object_storage: the bucket does not answer" in checked.stdout) == (1, True), checked
    with bucket_stack.client() as client:
        answer = client.get("/data")
    assert (answer.status_code, "does not answer at the moment" in answer.text) == (503, True)
    s3.start()
    assert bucket_stack.run_cli("ls", cwd=bucket_stack.places.home).code == 0
