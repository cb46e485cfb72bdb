"""Uploads with the real client: put, listed, used by a job and deleted; large ones cost the API no memory."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from airflow_prominence.objects import ObjectStore, store_of
from airflow_prominence.objects.settings import InFolder, StorageSettings
from tests.integration.stacks import Ended, Stack, until

#: Of the file that must pass through the API without staying in its memory, and what it may need meanwhile, in bytes.
LARGE = 600 << 20
MAY_GROW = 100 << 20


@pytest.fixture(autouse=True)
def nothing_stays(stack: Stack) -> Iterator[None]:
    """Delete what a test has uploaded."""
    yield
    for token in (stack.token, stack.other_token):
        with stack.client(token) as client:
            for item in client.get("/data").json():
                client.delete(f"/data/{item['name']}")


def kept(stack: Stack) -> ObjectStore:
    """The stack's own store."""
    place = InFolder(stack.places.objects)
    return store_of(StorageSettings(place, "", stack.url, stack.url, stack.secrets.internal_secret))


def memory_mb(stack: Stack) -> int:
    """The largest memory of the API's processes since :func:`forget_peaks`, in MB."""
    found = 0
    for pid in stack.pids("api-server"):
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert peak is not None
        found += int(peak[1])
    return found >> 10


def forget_peaks(stack: Stack) -> None:
    for pid in stack.pids("api-server"):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_the_client_uploads_lists_and_deletes(stack: Stack, tmp_path: Path) -> None:
    def cli(*arguments: str, token: str | None = None) -> Ended:
        return stack.run_cli(*arguments, cwd=tmp_path, token=token)

    def says(done: Ended, code: int, stdout: str) -> None:
        assert (done.code, done.stdout) == (code, stdout), done

    (tmp_path / "small").write_bytes(b"hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "larger file.bin").write_bytes(os.urandom(3 << 20))
    says(cli("ls"), 0, "")
    says(cli("upload", "--name", "small.txt", "--filename", "small"), 0, "Success\n")
    says(cli("upload", "--name", "a b+ä.bin", "--filename", "larger file.bin"), 0, "Success\n")
    says(cli("upload", "--name", "empty", "--filename", str(tmp_path / "empty")), 0, "Success\n")
    says(cli("ls"), 0, "a b+ä.bin\nempty\nsmall.txt\n")
    listed = cli("ls", "-l").stdout.splitlines()
    assert [line.rsplit(None, 2)[:2] for line in listed] == [
        ["a b+ä.bin", "3145728"],
        ["empty", "0"],
        ["small.txt", "5"],
    ]
    assert all(re.search(r" \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", line) for line in listed), listed
    assert len({len(line) for line in listed}) == 1
    store = kept(stack)
    assert store.read("uploads/demo/a b+ä.bin") == (tmp_path / "larger file.bin").read_bytes()
    says(cli("ls", "small.txt"), 0, "small.txt\n")
    # Another user sees, reads and deletes nothing of it.
    says(cli("ls", token=stack.other_token), 0, "")
    says(cli("ls", "demo", token=stack.other_token), 1, "Error: You are not in the group 'demo'\n")
    says(cli("rm", "small.txt", token=stack.other_token), 1, "Error: Object small.txt does not exist\n")
    says(cli("rm", "demo/small.txt", token=stack.other_token), 1, "Error: You are not in the group 'demo'\n")
    # A checksum that does not fit keeps what was there.
    (tmp_path / "small").write_bytes(b"other")
    refused = cli("upload", "--name", "small.txt", "--filename", "small", "--checksum", hashlib.sha256().hexdigest())
    assert (refused.code, "400" in refused.stdout) == (1, True), refused
    assert store.read("uploads/demo/small.txt") == b"hello"
    says(
        cli("upload", "--name", "small.txt", "--filename", "small", "--checksum", "nonsense"),
        1,
        "Error: checksum: must be a SHA-256 checksum, 64 hexadecimal digits\n",
    )
    says(cli("upload", "--name", "../x", "--filename", "small"), 1, "Error: You are not in the group '..'\n")
    says(cli("upload", "--filename", "small"), 1, "Error: a name must be specified\n")
    assert cli("upload", "--name", "none", "--filename", "none").code == 1
    says(cli("rm", "none"), 1, "Error: Object none does not exist\n")
    for name in ("a b+ä.bin", "empty", "small.txt"):
        says(cli("rm", name), 0, "Success\n")
    says(cli("ls"), 0, "")
    assert store.list("uploads/demo") == []


def test_a_job_gets_what_was_uploaded(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "mesh.txt").write_text("a mesh\n")
    with tarfile.open(tmp_path / "data.tgz", "w:gz") as tar:
        tar.add(tmp_path / "mesh.txt", "cad/mesh.txt")
    for arguments in (("--name", "mesh.tgz", "--filename", "data.tgz"), ("--name", "plain", "--filename", "mesh.txt")):
        assert stack.run_cli("upload", *arguments, cwd=tmp_path).stdout == "Success\n"

    def create(*options: str, token: str | None = None) -> Ended:
        words = (*options, stack.image, "sh -c 'cat cad/mesh.txt plain'")
        return stack.run_cli("create", *words, cwd=tmp_path, token=token)

    made = create("--artifact", "mesh.tgz", "--artifact", "plain")
    [job] = re.findall(r"^Job created with id (\d+)$", made.stdout, re.MULTILINE)
    described = stack.wait(int(job))
    assert (described["status"], described["execution"]["tasks"][0]["exitCode"]) == ("completed", 0), described
    assert stack.stdout(int(job)) == b"a mesh\na mesh\n"
    refused = create("--artifact", "mesh.tgz", "--artifact", "none.tgz")
    assert (refused.code, refused.stdout) == (1, "Error: Artifact none.tgz does not exist\n"), refused
    refused = create("--artifact", "mesh.tgz", token=stack.other_token)
    assert (refused.code, refused.stdout) == (1, "Error: Artifact mesh.tgz does not exist\n"), refused


def test_an_upload_that_breaks_off_leaves_what_was_there(stack: Stack) -> None:
    store = kept(stack)
    store.write("uploads/demo/broken", b"old")
    with stack.client() as client:
        url = urlsplit(client.post("/data/upload", json={"filename": "broken"}).json()["url"])
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port), 30) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {8 << 20}\r\n\r\n"
        connection.sendall(head.encode() + bytes(5 << 20))
        incoming = stack.places.objects / "incoming"
        until(lambda: any(path.stat().st_size >= 2 << 20 for path in incoming.iterdir()), 30, what="it arrives")
    until(lambda: not list(incoming.iterdir()), 30, what="what has arrived is forgotten")
    assert store.read("uploads/demo/broken") == b"old"


def test_a_large_file_passes_through_without_staying_in_memory(stack: Stack, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(LARGE)
        file.seek(LARGE // 2)
        file.write(middle := os.urandom(1000))
    with source.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    # What the first request of all imports and opens is no matter of this file.
    assert stack.run_cli("ls", cwd=tmp_path).code == 0
    forget_peaks(stack)
    before = memory_mb(stack)
    done = stack.run_cli("upload", "--name", "large", "--filename", "large", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "Success\n"), done
    uploaded = memory_mb(stack)
    store = kept(stack)
    info = store.stat("uploads/demo/large")
    assert info is not None
    assert (info.size, info.sha256) == (LARGE, checksum)
    digest = hashlib.sha256()
    with httpx.stream("GET", store.url_to_get(info.key, 600), trust_env=False, timeout=60) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes(1 << 20):
            digest.update(piece)
    assert digest.hexdigest() == checksum
    downloaded = memory_mb(stack)
    assert uploaded - before < MAY_GROW >> 20, (before, uploaded, downloaded)
    assert downloaded - before < MAY_GROW >> 20, (before, uploaded, downloaded)
    # A download that broke off goes on where it was.
    part = httpx.get(
        store.url_to_get(info.key, 600), headers={"Range": f"bytes={LARGE // 2}-{LARGE // 2 + 999}"}, trust_env=False
    )
    assert (part.status_code, part.content) == (206, middle)
