"""Singularity images: the file format, the file system in it, and what hostile ones come to."""

import contextlib
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent.images.build import Entry
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Image, PullError, Stored, Wanted
from airflow_prominence.agent.images.squashfs import Squashfs
from airflow_prominence.agent.images.unpack import Budget
from tests.runtimes.sifwriter import BLOCK, descriptor, sif, squashfs

ENTRIES = [
    Entry("etc/mark", 0o640, b"sif\n"),
    Entry("bin/tool", 0o4755, b"#!/bin/sh\n"),
    Entry("empty", 0o600, b""),
    Entry("folder", 0o1777),
    Entry("link", link="/etc/mark"),
    Entry("up", link="../../etc/passwd"),
    Entry("hole", 0o644, bytes(2 * BLOCK) + b"end"),
    Entry("noise", 0o644, bytes((index * index) >> 3 & 255 for index in range(300_000))),
    *(Entry(f"many/{'x' * 40}-{number}", 0o644, str(number).encode()) for number in range(400)),
]


def get(tmp_path: Path, data: bytes, **changes: object) -> tuple[Image, str]:
    """The image in a file with these bytes, as the only user of a cache."""
    path = tmp_path / "image.sif"
    path.write_bytes(data)
    cache = ImageCache(str(tmp_path / "cache"), **changes)  # type: ignore[arg-type]
    try:
        return cache.get(Wanted("/data/image.sif", stored=Stored(str(path), None, "a")), lambda line: None)
    finally:
        cache.close()


def same(entries: list[Entry], root: Path) -> None:
    for entry in entries:
        path = root / entry.path
        if entry.link is not None:
            assert os.readlink(path) == entry.link
        elif entry.data is None:
            assert path.is_dir()
            assert stat.S_IMODE(path.stat().st_mode) == entry.mode | 0o700
        else:
            assert path.read_bytes() == entry.data, entry.path
            assert stat.S_IMODE(path.stat().st_mode) == entry.mode & 0o777 | 0o600


def test_a_sif(tmp_path: Path) -> None:
    image, status = get(tmp_path, sif(squashfs(ENTRIES), descriptor(0x4001, 2000, 20), descriptor(0x4004, 1, 1, 1, 3)))
    assert (status, image.is_singularity, image.cmd, image.entrypoint) == ("completed", True, [], [])
    same(ENTRIES, Path(image.path))
    assert (Path(image.path) / "home" / "user").is_dir()
    again, status = get(tmp_path, (tmp_path / "image.sif").read_bytes())
    assert (again.path, again.digest) == (image.path, image.digest)


@pytest.mark.parametrize("line", [b"", b"#!/usr/bin/env run-singularity\n"])
def test_files_of_singularity_2(tmp_path: Path, line: bytes) -> None:
    image, _ = get(tmp_path, line + squashfs(ENTRIES))
    assert image.is_singularity
    same(ENTRIES, Path(image.path))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (sif(squashfs([]), machine=b"11\0"), "is built for s390x, this node is"),
        (sif(squashfs([]), system=5), "is encrypted, which is not supported"),
        (sif(squashfs([]), system=2), "has a file system other than squashfs"),
        (sif(squashfs([]), part=1), "it has no file system"),
        (sif(b"", descriptor(0x400A, 1, 1), part=1), "is an OCI-SIF, which is not supported; build it without --oci"),
        (sif(b"no file system at all" * 9), "is not squashfs 4.0"),
        (sif(squashfs(ENTRIES))[:20000], "is cut off"),
        (sif(b""), "has a file system other than squashfs"),
        (b"#!/bin/sh\necho hello\n", "is not an image archive"),
        (b"", "is not an image archive"),
        (b"hsqs", "points beyond its end"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(PullError, match=sentence) as caught:
        get(tmp_path, data)
    assert "\n" not in caught.value.last_line
    assert not list((tmp_path / "cache" / "images").iterdir())
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def _unpack(data: bytes, root: Path, budget: Budget) -> None:
    path = root.with_suffix(".image")
    path.write_bytes(data)
    root.mkdir()
    with path.open("rb") as file:
        Squashfs(file.fileno(), 0, len(data)).unpack(str(root), budget)


@pytest.mark.parametrize("name", [b"..", b"a/", b"/x", b"a\0"])
def test_a_name_stays_inside(tmp_path: Path, name: bytes) -> None:
    entries = [Entry("QQ", 0o644, b"x")] if len(name) == 2 else []
    data = squashfs(entries)
    assert data.count(b"QQ") == 1
    with pytest.raises(PullError, match="leaves the image"):
        _unpack(data.replace(b"QQ", name), tmp_path / "root", Budget(10**6))
    assert list((tmp_path / "root").iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Two entries of one name: a link to somewhere outside, and a folder with something in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    data = squashfs([Entry("AA", link=str(outside)), Entry("BB/inside", 0o644, b"x"), Entry("CC", 0o644, b"y")])
    for name in (b"BB", b"CC"):
        with pytest.raises(PullError, match="two things of one name"):
            _unpack(data.replace(name, b"AA"), tmp_path / f"root-{name.decode()}", Budget(10**6))
    assert list(outside.iterdir()) == []


def test_a_folder_in_itself_ends(tmp_path: Path) -> None:
    data = squashfs([Entry("folder/inside/deeper", 0o755)])
    root = struct.unpack_from("<Q", data, 32)[0]
    for at in range(len(data) - 12):
        # the entry of `inside` is made to lead to the root
        if data[at + 8 : at + 14] == b"inside":
            changed = bytearray(data)
            struct.pack_into("<H", changed, at, root & 0xFFFF)
            with pytest.raises(PullError, match="a folder in two places"):
                _unpack(bytes(changed), tmp_path / "root", Budget(10**6))
            return
    pytest.fail("the entry was not found")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    data = squashfs([Entry("big", 0o644, bytes(3_000_000))])
    with pytest.raises(PullError, match="more than 1 MB"):
        _unpack(data, tmp_path / "root", Budget(10**6))
    with pytest.raises(PullError, match="too many files"):
        _unpack(squashfs(ENTRIES), tmp_path / "other", Budget(10**9, members=100))


def test_every_damage_is_one_sentence(tmp_path: Path) -> None:
    """A byte changed anywhere in what describes the file system: an image, or PullError, and never anything else."""
    good = squashfs(ENTRIES[:8])
    inodes = struct.unpack_from("<Q", good, 64)[0]
    for at in [*range(8, 96), *range(inodes, len(good), 3)]:
        damaged = bytearray(good)
        damaged[at] ^= 0xFF
        root = tmp_path / str(at)
        with contextlib.suppress(PullError):
            _unpack(bytes(damaged), root, Budget(10**7, members=1000))
        shutil.rmtree(root, ignore_errors=True)


def test_links_to_nowhere(tmp_path: Path) -> None:
    data = squashfs([Entry("link", link="QQ")])
    with pytest.raises(PullError, match="a link to nowhere"):
        _unpack(data.replace(b"QQ", b"Q\0"), tmp_path / "root", Budget(10**6))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with what our writer never writes: ends of files in fragments, long inodes, hard links."""
    made = tmp_path_factory.mktemp("tree")
    (made / "many").mkdir()
    for number in range(700):
        (made / "many" / f"{'long' * 20}-{number}").write_bytes(os.urandom(number))
    (made / "big").write_bytes(os.urandom(1 << 20) + bytes(1 << 21) + b"end" * 100_000)
    with (made / "sparse").open("wb") as file:
        file.truncate(5 << 20)
    os.link(made / "big", made / "also big")
    (made / "link").symlink_to("/" + "x" * 300)
    (made / "deep" / "er" / "est").mkdir(parents=True)
    (made / "ü🚀").write_text("name")
    os.mkfifo(made / "pipe")
    (made / "big").chmod(0o4751)
    (made / "deep").chmod(0o2770)
    return made


@pytest.mark.parametrize("method", ["gzip", "xz", "zstd", "lz4", "plain"])
def test_what_mksquashfs_writes(tmp_path: Path, tree: Path, install: Callable[[str], None], method: str) -> None:
    if shutil.which("mksquashfs") is None:
        install("squashfs")
    how = ["-noI", "-noD", "-noF"] if method == "plain" else ["-comp", method]
    argv = ["mksquashfs", str(tree), str(tmp_path / "fs"), *how, "-noappend", "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    root = tmp_path / "root"
    _unpack((tmp_path / "fs").read_bytes(), root, Budget(10**8))
    for path in tree.rglob("*"):
        found = root / path.relative_to(tree)
        if path.is_symlink():
            assert os.readlink(found) == os.readlink(path)
        elif path.is_dir():
            assert stat.S_IMODE(found.stat().st_mode) == path.stat().st_mode & 0o1777 | 0o700
        elif path.is_file():
            assert found.read_bytes() == path.read_bytes()
            assert stat.S_IMODE(found.stat().st_mode) == path.stat().st_mode & 0o777 | 0o600
            assert int(found.stat().st_mtime) == int(path.stat().st_mtime)
        else:
            assert not found.exists()
    assert (root / "big").stat().st_ino == (root / "also big").stat().st_ino


def test_a_method_that_nobody_has_is_said(tmp_path: Path, tree: Path, install: Callable[[str], None]) -> None:
    data = bytearray(squashfs(ENTRIES))
    struct.pack_into("<H", data, 20, 3)
    with pytest.raises(PullError, match="compressed with lzo, which is not supported; build it with gzip"):
        _unpack(bytes(data), tmp_path / "root", Budget(10**8))
