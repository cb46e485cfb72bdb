"""The object store in a folder: whole objects or none, nothing outside, no link followed."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from pathlib import Path

import pytest

from airflow_prominence.objects import BadKey, ChecksumMismatch, KeyTaken, LocalStore, NoRoom, NoSuchObject
from airflow_prominence.objects.signing import Signer

BASES = ("https://example.org/api/v1", "http://api:8080/api/v1")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", Signer("secret"), *BASES)


def everything(store: LocalStore) -> list[str]:
    """Each file and folder of the store but its two top ones."""
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.parent != store.root)


def test_an_object_is_written_read_listed_and_deleted(store: LocalStore) -> None:
    before = time.time()
    info = store.write("uploads/alice/data.tgz", b"hello world")
    assert (info.size, info.sha256) == (11, hashlib.sha256(b"hello world").hexdigest())
    assert before <= info.modified <= time.time()
    assert store.stat(info.key) == info
    assert (store.read(info.key), store.read(info.key, 6), store.read(info.key, 2, 3)) == (
        b"hello world",
        b"world",
        b"llo",
    )
    assert store.read(info.key, 100) == b""
    [listed] = store.list("uploads/alice")
    assert (listed.key, listed.size, listed.modified) == (info.key, info.size, info.modified)
    for _ in range(2):
        store.delete(info.key)
        assert store.stat(info.key) is None
    assert everything(store) == []
    with pytest.raises(NoSuchObject):
        store.read(info.key)


def test_an_objects_time_is_when_it_became_one(store: LocalStore) -> None:
    with store.receive("uploads/a/x") as incoming:
        incoming.write(b"slow")
        time.sleep(0.05)
        before = time.time()
        info = incoming.keep()
    assert before <= info.modified <= time.time()
    assert store.stat("uploads/a/x") == info


def test_what_is_open_stays_readable(store: LocalStore) -> None:
    store.write("uploads/a/x", b"old")
    with store.open_read("uploads/a/x") as file:
        store.write("uploads/a/x", io.BytesIO(b"new"))
        assert (file.read(), store.read("uploads/a/x")) == (b"old", b"new")
        store.delete("uploads/a/x")


def test_a_wrong_checksum_keeps_what_was_there(store: LocalStore) -> None:
    right = hashlib.sha256(b"two").hexdigest()
    store.write("uploads/a/x", b"one")
    with pytest.raises(ChecksumMismatch, match=right):
        store.write("uploads/a/x", b"two", "0" * 64)
    assert store.read("uploads/a/x") == b"one"
    store.write("uploads/a/x", b"two", right.upper())
    assert store.read("uploads/a/x") == b"two"
    assert everything(store) == ["objects/uploads", "objects/uploads/a", "objects/uploads/a/x"]


def test_an_upload_that_breaks_off_leaves_nothing(store: LocalStore) -> None:
    def breaking() -> None:
        with store.receive("uploads/a/x") as incoming:
            incoming.write(b"half")
            assert store.stat("uploads/a/x") is None
            raise ConnectionError

    with pytest.raises(ConnectionError):
        breaking()
    assert everything(store) == []


def test_what_a_killed_server_left_is_swept(store: LocalStore) -> None:
    killed, alive = store.receive("uploads/a/x"), store.receive("uploads/a/y")
    [old] = [path for path in (store.root / "incoming").iterdir() if path.name == killed._name]
    os.utime(old, (0, 0))
    assert store.sweep(3600) == 1
    alive.keep()
    killed.drop()
    assert [info.key for info in store.list("uploads")] == ["uploads/a/y"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "a//b",
        "a/",
        "/a",
        "..",
        "a/../b",
        ".",
        "a/./b",
        "a\0b",
        "a\nb",
        "x" * 256,
        "é" * 128,
        "a/" * 600 + "a",
        "\ud800",
    ],
)
def test_what_is_no_key_is_refused_everywhere(store: LocalStore, key: str) -> None:
    for act in (
        lambda: store.url_to_get(key, 60),
        lambda: store.url_to_put(key, 60),
        lambda: store.stat(key),
        lambda: store.read(key),
        lambda: store.open_read(key),
        lambda: store.write(key, b""),
        lambda: store.delete(key),
    ):
        with pytest.raises(BadKey):
            act()


def test_no_link_is_followed(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.write("uploads/a/x", b"x")
    folder = store.root / "objects" / "uploads"
    (folder / "linked").symlink_to(outside)
    (folder / "a" / "file").symlink_to(outside / "secret")
    for key in ("uploads/linked/secret", "uploads/a/file"):
        assert store.stat(key) is None
        with pytest.raises(NoSuchObject):
            store.read(key)
    with pytest.raises(KeyTaken):
        store.write("uploads/linked/secret", b"gone")
    assert [info.key for info in store.list("uploads")] == ["uploads/a/x"]
    store.write("uploads/a/file", b"a file now")
    assert not (folder / "a" / "file").is_symlink()
    store.delete("uploads/linked/secret")
    store.delete_below("uploads")
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_pipe_holds_nobody_up(store: LocalStore) -> None:
    store.write("uploads/a/x", b"x")
    os.mkfifo(store.root / "objects" / "uploads" / "a" / "pipe")
    assert store.stat("uploads/a/pipe") is None


def test_a_folder_is_no_object_and_an_object_no_folder(store: LocalStore) -> None:
    store.write("uploads/a/b/c", b"x")
    assert store.stat("uploads/a/b") is None
    for key in ("uploads/a/b", "uploads/a/b/c/d"):
        with pytest.raises(KeyTaken, match="cannot be stored"):
            store.write(key, b"y")
    store.delete("uploads/a/b")
    assert [info.key for info in store.list("uploads")] == ["uploads/a/b/c"]
    assert list((store.root / "incoming").iterdir()) == []


def test_a_prefix_is_a_folder(store: LocalStore) -> None:
    for key in ("uploads/ab/1", "uploads/ab/c/2", "uploads/abc/3", "uploads/ab.4"):
        store.write(key, b"x")
    for prefix in ("uploads/ab", "uploads/ab/"):
        assert [info.key for info in store.list(prefix)] == ["uploads/ab/1", "uploads/ab/c/2"]
    store.delete_below("uploads/ab")
    assert [info.key for info in store.list("uploads")] == ["uploads/ab.4", "uploads/abc/3"]
    assert store.list("uploads/none") == store.list("uploads/ab.4") == []


def test_a_full_disk_is_told_before_and_while(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoRoom, match="no room"):
        store.receive("uploads/a/x", 1 << 62)

    def full(_file: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoRoom, match="full"):
        store.write("uploads/a/x", b"x")
    monkeypatch.undo()
    assert everything(store) == []


def test_many_come_and_go_in_one_folder_at_once(store: LocalStore) -> None:
    errors: list[BaseException] = []

    def turn(number: int) -> None:
        try:
            for _ in range(40):
                store.write(f"scratch/uid/{number}", b"x")
                store.delete(f"scratch/uid/{number}")
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, everything(store)) == ([], [])


def test_urls_lead_users_and_nodes_to_where_they_reach_us(store: LocalStore) -> None:
    assert store.url_to_get("uploads/a/x", 60).startswith(f"{BASES[0]}/objects/uploads/a/x?")
    assert store.url_to_get("uploads/a/x", 60, to_node=True).startswith(f"{BASES[1]}/objects/uploads/a/x?")
    put = store.url_to_put("uploads/ä b/x%y", 60)
    assert put.url.startswith(f"{BASES[0]}/objects/uploads/%C3%A4%20b/x%25y?expires=")
    assert put.fields is None
    assert store.url_to_put("uploads/a/x", 60, to_node=True).url.startswith(BASES[1])
