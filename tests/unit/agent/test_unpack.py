"""Archives of all kinds come out as they went in, and hostile ones don't come out at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent.staging.tree import FOLDER, Tree, Unsafe, copy_tree
from airflow_prominence.agent.staging.unpack import Budget, Unpacked, UnpackFailed, kind_of, unpack

LARGE = 1 << 40


def out_of(data: bytes, name: str, folder: Path, size: int = LARGE, files: int = 1000) -> Unpacked:
    kind = kind_of(name)
    assert kind is not None
    folder.mkdir(exist_ok=True)
    fd = os.open(folder, FOLDER)
    before = set(os.listdir("/proc/self/fd"))
    try:
        return unpack(io.BytesIO(data), kind, fd, Budget(size, files))
    finally:
        # fewer may be: what an earlier test dropped is closed when it is collected
        assert set(os.listdir("/proc/self/fd")) <= before, "a descriptor was left open"
        os.close(fd)


Member = Callable[[tarfile.TarFile], None]


def file(name: str, data: bytes = b"x", mode: int = 0o644, **how: Any) -> Member:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        for key, value in how.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(data))

    return add


def other(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> Member:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, mode
        tar.addfile(info)

    return add


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for add in members:
            add(archive)
    return out.getvalue()


def zipped(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name, (2020, 5, 17, 12, 30, 0))
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


WHOLE = (
    other("d", tarfile.DIRTYPE, mode=0o500),
    file("d/run.sh", b"#!/bin/sh\n", 0o4755, mtime=1_000_000_000),
    file("d/e/f.txt", b"far" * 100_000, 0o400),
    other("d/link", tarfile.SYMTYPE, "run.sh"),
    other("d/abs", tarfile.SYMTYPE, "/usr/bin/python3"),
    other("d/same", tarfile.LNKTYPE, "d/run.sh"),
    file("\u00e9 b", b"name"),
    file("/rooted", b"r"),
    file("empty", b""),
)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".tar", bytes),
        (".tgz", gzip.compress),
        (".tar.gz", gzip.compress),
        (".TAR.GZ", gzip.compress),
        (".tar.bz2", bz2.compress),
        (".tbz2", bz2.compress),
        (".tar.xz", lzma.compress),
        (".txz", lzma.compress),
    ],
)
def test_tar_archives(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    done = out_of(pack(tar(*WHOLE)), "data" + suffix, tmp_path / "out")
    out = tmp_path / "out"
    assert (done.files, done.size, done.left_out) == (len(WHOLE), 300_000 + 10 + 4 + 1, [])
    assert sorted(os.listdir(out)) == ["d", "empty", "rooted", "\u00e9 b"]
    assert (out / "d/e/f.txt").read_bytes() == b"far" * 100_000
    run = (out / "d/run.sh").stat()
    # never set-id, always its owner's to change
    assert (run.st_mode, run.st_mtime) == (stat.S_IFREG | 0o755, 1_000_000_000)
    assert (out / "d/e/f.txt").stat().st_mode & 0o7777 == 0o600
    assert (out / "d").stat().st_mode & 0o7777 == 0o700
    assert os.readlink(out / "d/link") == "run.sh"
    assert os.readlink(out / "d/abs") == "/usr/bin/python3"
    assert (out / "d/same").stat().st_ino == run.st_ino


@pytest.mark.parametrize(
    ("name", "pack", "plain"),
    [("a.txt.gz", gzip.compress, "a.txt"), ("a.BZ2", bz2.compress, "a"), ("b.xz", lzma.compress, "b")],
)
def test_single_files(tmp_path: Path, name: str, pack: Callable[[bytes], bytes], plain: str) -> None:
    data = os.urandom(700_000)
    done = out_of(pack(data), name, tmp_path / "out")
    assert (done.files, done.size) == (1, len(data))
    assert (tmp_path / "out" / plain).read_bytes() == data


def test_several_gzip_files_in_a_row_and_padding(tmp_path: Path) -> None:
    data = gzip.compress(b"one") + gzip.compress(b"two" * 1_000_000) + gzip.compress(b"") + bytes(1000)
    out_of(data, "a.gz", tmp_path)
    assert (tmp_path / "a").read_bytes() == b"one" + b"two" * 1_000_000


def test_zip_archives(tmp_path: Path) -> None:
    data = zipped(
        ("d/", b"", stat.S_IFDIR | 0o700),
        ("d/run.sh", b"#!/bin/sh\n", stat.S_IFREG | 0o4755),
        ("d/link", b"run.sh", stat.S_IFLNK | 0o777),
        ("plain", b"p" * 500_000, 0),
        ("pipe", b"", stat.S_IFIFO | 0o600),
    )
    done = out_of(data, "a.zip", tmp_path)
    assert (done.files, done.left_out) == (5, ["pipe"])
    assert (tmp_path / "d/run.sh").stat().st_mode == stat.S_IFREG | 0o755
    assert os.readlink(tmp_path / "d/link") == "run.sh"
    assert (tmp_path / "plain").read_bytes() == b"p" * 500_000
    assert time.localtime((tmp_path / "plain").stat().st_mtime)[:5] == (2020, 5, 17, 12, 30)


@pytest.mark.parametrize("name", ["data.csv", "gz", ".tgz", ".tar", "a.sif", "tar", "a.gzip", "a.zip.txt", "a.7z"])
def test_what_is_no_archive_by_its_name(name: str) -> None:
    assert kind_of(name) is None


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_left_out(tmp_path: Path, kind: bytes) -> None:
    done = out_of(tar(other("dev/x", kind), file("a")), "a.tar", tmp_path)
    assert done.left_out == ["dev/x"]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([file("../evil")], "leads out of its folder"),
        ([file("a/../../evil")], "leads out of its folder"),
        ([other("../evil", tarfile.SYMTYPE, "x")], "leads out of its folder"),
        ([other("l", tarfile.SYMTYPE, ".."), file("l/evil")], "leads through a link or a file"),
        ([other("l", tarfile.SYMTYPE, "/tmp"), file("l/evil")], "leads through a link or a file"),
        ([other("l", tarfile.SYMTYPE, "/tmp"), other("l", tarfile.DIRTYPE)], "leads through a link or a file"),
        ([file("d/x"), other("l", tarfile.SYMTYPE, "d"), other("l/y", tarfile.LNKTYPE, "d/x")], "through a link"),
        ([other("l", tarfile.LNKTYPE, "../outside")], "leads out of its folder"),
        ([other("l", tarfile.LNKTYPE, "/outside")], "a link to 'outside', which is not in it"),
        ([other("s", tarfile.SYMTYPE, ".."), other("l", tarfile.LNKTYPE, "s/outside")], "leads through a link"),
        ([other("d", tarfile.DIRTYPE), other("l", tarfile.LNKTYPE, "d")], "is a folder already"),
        ([other("l", tarfile.SYMTYPE, "")], "leads nowhere"),
        ([other("d", tarfile.DIRTYPE), file("d")], "is a folder already"),
        ([file("."), file("x")], "a file called '.'"),
        ([file("/".join("d" * 300))], "more than 200 deep"),
        ([file("n" * 256)], "is too long"),
        ([file(f"f{n}") for n in range(11)], "holds more than 10 files"),
    ],
)
def test_hostile_tar_archives(tmp_path: Path, members: list[Member], sentence: str) -> None:
    (tmp_path / "outside").write_text("safe")
    before = sorted(os.listdir(tmp_path)), (tmp_path / "outside").stat().st_nlink
    with pytest.raises(UnpackFailed, match=sentence):
        out_of(tar(*members), "a.tar", tmp_path / "out", files=10)
    (tmp_path / "out").joinpath("l").unlink() if (tmp_path / "out/l").is_symlink() else None
    assert (sorted(set(os.listdir(tmp_path)) - {"out"}), (tmp_path / "outside").stat().st_nlink) == before
    assert not Path("/tmp/evil").exists()


def test_a_link_that_is_replaced_by_a_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("safe")
    data = tar(other("x", tarfile.SYMTYPE, "../outside"), file("x", b"new"))
    out_of(data, "a.tar", tmp_path / "out")
    assert (tmp_path / "outside").read_text() == "safe"
    assert (tmp_path / "out/x").read_text() == "new"
    assert not (tmp_path / "out/x").is_symlink()


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("../evil", b"x", 0)], "leads out of its folder"),
        ([("l", b"..", stat.S_IFLNK | 0o777), ("l/evil", b"x", 0)], "leads through a link"),
        ([("l", b"", stat.S_IFLNK | 0o777)], "leads nowhere"),
        ([("l", b"x" * 5000, stat.S_IFLNK | 0o777)], "leads nowhere"),
        ([("./", b"", 0), (".", b"x", 0)], "a file called '.'"),
    ],
)
def test_hostile_zip_archives(tmp_path: Path, members: list[tuple[str, bytes, int]], sentence: str) -> None:
    with pytest.raises(UnpackFailed, match=sentence):
        out_of(zipped(*members), "a.zip", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_windows_paths_in_a_zip_are_folders(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("d\\e.txt")
        info.create_system = 0
        archive.writestr(info, b"x")
        evil = zipfile.ZipInfo("..\\..\\evil")
        evil.create_system = 0
        archive.writestr(evil, b"x")
    with pytest.raises(UnpackFailed, match="leads out"):
        out_of(out.getvalue(), "a.zip", tmp_path)
    assert (tmp_path / "d/e.txt").read_bytes() == b"x"


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    data = bytearray(zipped(("a", b"x", 0)))
    for marker in (b"PK\x03\x04", b"PK\x01\x02"):
        at = data.index(marker) + (6 if marker.endswith(b"\x04") else 8)
        data[at] |= 1
    with pytest.raises(UnpackFailed, match="is encrypted"):
        out_of(bytes(data), "a.zip", tmp_path)


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    data = bytearray(zipped(("bomb", bytes(10_000_000), 0)))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    with pytest.raises(UnpackFailed):
        out_of(bytes(data), "a.zip", tmp_path, size=1_000_000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.gz"])
def test_bombs_stop_at_what_is_left_of_the_disk(tmp_path: Path, name: str) -> None:
    zeros = bytes(50_000_000)
    data = {
        "a.tar.gz": lambda: gzip.compress(tar(file("bomb", zeros)), 1),
        "a.zip": lambda: zipped(("bomb", zeros, 0)),
        "a.gz": lambda: gzip.compress(zeros, 1),
    }[name]()
    assert len(data) < 1_000_000
    with pytest.raises(UnpackFailed, match=r"more than the 2\.0 MB that are left of the job's disk"):
        out_of(data, name, tmp_path, size=2_000_000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000_000


def test_a_sparse_giant_is_refused_before_it_is_written(tmp_path: Path) -> None:
    info = tarfile.TarInfo("giant")
    info.size = 1 << 50
    out = io.BytesIO()
    out.write(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(UnpackFailed, match="left of the job's disk"):
        out_of(out.getvalue() + bytes(2048), "a.tar", tmp_path, size=1_000_000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip", "a.gz", "a.bz2", "a.xz"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_damaged_archives(tmp_path: Path, name: str, damage: str) -> None:
    content = tar(file("a", os.urandom(300_000)))
    pack: dict[str, Callable[[bytes], bytes]] = {
        "a.tar": bytes,
        "a.zip": lambda _: zipped(("a", os.urandom(300_000), 0)),
    }
    for suffix, packer in (
        (".tgz", gzip.compress),
        (".gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
    ):
        if name.endswith(suffix):
            pack[name] = packer
    data = pack[name](content)
    damaged = {"empty": b"", "noise": b"noise" * 1000, "cut": data[: len(data) // 2]}[damage]
    with pytest.raises(UnpackFailed):
        out_of(damaged, name, tmp_path)


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(file("a", os.urandom(300_000)))))
    data[-6] ^= 1  # in the checksum behind the archive's end
    with pytest.raises(UnpackFailed, match="damaged"):
        out_of(bytes(data), "a.tgz", tmp_path)


def test_a_copied_tree_is_the_same(tmp_path: Path) -> None:
    out_of(tar(*WHOLE), "a.tar", tmp_path / "one")
    two = tmp_path / "two"
    two.mkdir()
    (two / "d").mkdir()
    (two / "d" / "run.sh").symlink_to(tmp_path / "outside")
    (two / "kept").write_text("k")
    source, target = os.open(tmp_path / "one", FOLDER), os.open(two, FOLDER)
    tree = Tree(target)
    copy_tree(source, tree)
    tree.close()
    os.close(source)
    os.close(target)
    assert not (tmp_path / "outside").exists()
    (two / "kept").unlink()
    assert _listing(tmp_path / "one") == _listing(two)
    assert (two / "d/same").stat().st_ino == (two / "d/run.sh").stat().st_ino


def test_a_copied_tree_does_not_follow_links_of_its_target(tmp_path: Path) -> None:
    out_of(tar(file("d/x")), "a.tar", tmp_path / "one")
    two, outside = tmp_path / "two", tmp_path / "outside"
    two.mkdir()
    outside.mkdir()
    (two / "d").symlink_to(outside)
    source, target = os.open(tmp_path / "one", FOLDER), os.open(two, FOLDER)
    tree = Tree(target)
    with pytest.raises(Unsafe, match="through a link"):
        copy_tree(source, tree)
    tree.close()
    os.close(source)
    os.close(target)
    assert os.listdir(outside) == []


def _listing(root: Path) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        times = 0 if path.is_dir() or path.is_symlink() else at.st_mtime_ns
        found.append((path.relative_to(root), at.st_mode, content, times))
    return found
