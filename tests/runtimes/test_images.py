"""Names, archives, layers, registries, and the cache of unpacked images."""

import fcntl
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_prominence.agent.addresses import EVERYWHERE
from airflow_prominence.agent.images import download
from airflow_prominence.agent.images.archive import Archive
from airflow_prominence.agent.images.build import Entry, ImageConfig, layer, write_archive
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Credential, PullError, Wanted
from airflow_prominence.agent.images.reference import parse
from airflow_prominence.agent.images.sources import Sources
from airflow_prominence.agent.images.unpack import Budget, unpack_layer
from airflow_prominence.agent.node import CACHE_PART, Node
from tests.runtimes.registry import Registry, digest

BASE = layer([Entry("etc/mark", 0o644, b"base\n"), Entry("bin/tool", 0o755, b"#!/bin/sh\n")])


HERE = Sources(allowed=EVERYWHERE)


def quiet(_line: str) -> None:
    """Nothing is said."""


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    made = ImageCache(str(tmp_path / "cache"), str(tmp_path / "images"), HERE)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker://alice/tool", "docker.io/alice/tool:latest"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
        ("localhost/a", "localhost/a:latest"),
        ("registry.example/a", "registry.example/a:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("a@sha256:" + "1" * 64, "docker.io/library/a:latest@sha256:" + "1" * 64),
    ],
)
def test_names(name: str, full: str) -> None:
    assert str(parse(name)) == full


@pytest.mark.parametrize(
    "name", ["", "A", "a:", "a b", "a/../b", "-a", "a@sha256:12", "a@", "http:x/y", "a:b:c", "a\n"]
)
def test_refused_names(name: str) -> None:
    with pytest.raises(PullError):
        parse(name)


class Layer:
    """A layer with whatever a hostile author may write."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)

    def file(self, name: str, data: bytes = b"x", mode: int = 0o644) -> "Layer":
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def special(self, name: str, kind: bytes, target: str = "", mode: int = 0o755) -> "Layer":
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, mode
        self._tar.addfile(info)
        return self

    def unpack(self, root: Path, size: int = 10**6) -> None:
        self._tar.close()
        data = self._out.getvalue()
        root.mkdir(exist_ok=True)
        unpack_layer(io.BytesIO(data), str(root), Budget(size), digest(data))


def test_a_layer_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    made = Layer().special("up", tarfile.SYMTYPE, "../outside").file("up/a")
    made.special("abs", tarfile.SYMTYPE, str(outside)).file("abs/b").file("/c").file("abs/d")
    made.special("twice", tarfile.SYMTYPE, "up").file("twice/e")
    made.special("file", tarfile.SYMTYPE, str(outside / "f")).file("file", b"mine")
    made.unpack(root)
    assert list(outside.iterdir()) == []
    assert (root / "c").read_bytes() == b"x"
    assert (root / "file").read_bytes() == b"mine"
    assert (root / "outside" / "a").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "a/.."])
def test_a_layer_may_not_point_up(tmp_path: Path, name: str) -> None:
    with pytest.raises(PullError, match="leaves the image"):
        Layer().file(name).unpack(tmp_path / "root")
    with pytest.raises(PullError, match="leaves the image"):
        Layer().special("link", tarfile.LNKTYPE, name).unpack(tmp_path / "root")


def test_hard_links_only_to_what_is_in_the_image(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    with pytest.raises(PullError, match="not in the image"):
        Layer().special("link", tarfile.LNKTYPE, str(secret)).unpack(tmp_path / "root")
    other = tmp_path / "other"
    made = Layer().special("way", tarfile.SYMTYPE, str(secret)).special("link", tarfile.LNKTYPE, "way")
    made.unpack(other)
    assert (other / "link").is_symlink()
    assert secret.stat().st_nlink == 1


def test_modes_and_kinds(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made = Layer().file("setuid", mode=0o4755).special("closed", tarfile.DIRTYPE, mode=0o555).file("closed/in", mode=0)
    made.special("device", tarfile.CHRTYPE).special("pipe", tarfile.FIFOTYPE).special(
        "sticky", tarfile.DIRTYPE, mode=0o1777
    )
    made.unpack(root)
    assert stat.S_IMODE((root / "setuid").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "closed").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "closed" / "in").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "sticky").stat().st_mode) == 0o1777
    assert not (root / "device").exists()
    assert not (root / "pipe").exists()


def test_whiteouts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    Layer().file("a/one").file("a/two").file("b/one").file("c/deep/one").unpack(root)
    Layer().file("b/new").file("b/.wh..wh..opq").file("a/.wh.one").file(".wh.c").file("c2/x").unpack(root)
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
        "a",
        "a/two",
        "b",
        "b/new",
        "c2",
        "c2/x",
    ]


def test_a_folder_replaces_a_link_and_the_other_way_round(tmp_path: Path) -> None:
    root = tmp_path / "root"
    Layer().special("a", tarfile.SYMTYPE, "b").file("c/x").unpack(root)
    Layer().special("a", tarfile.DIRTYPE).file("a/y").special("c", tarfile.SYMTYPE, "a").file("c/z").unpack(root)
    assert (root / "a").is_dir()
    assert not (root / "a").is_symlink()
    assert (root / "a" / "z").exists()


def test_size_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(PullError, match="more than 1 MB"):
        Layer().file("big", b"x" * 2_000_000).unpack(tmp_path / "root", size=10**6)


def test_a_layer_is_what_its_image_says(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(PullError, match="not the one"):
        unpack_layer(io.BytesIO(BASE), str(tmp_path / "root"), Budget(10**6), "sha256:" + "0" * 64)


def test_local_archives_by_name(tmp_path: Path, cache: ImageCache) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.tar").write_bytes(b"no archive")
    write_archive(str(tmp_path / "images" / "x.tar"), ["prominence/demo:latest"], ImageConfig(cmd=["tool"]), [BASE])
    for name in ("prominence/demo", "prominence/demo:latest", "docker.io/prominence/demo", "docker://prominence/demo"):
        image, _ = cache.get(Wanted(name), quiet)
        assert Path(image.path, "etc/mark").read_text() == "base\n"
        assert image.cmd == ["tool"]
    assert cache.get(Wanted("prominence/demo"), quiet)[1] == "cached"
    write_archive(str(tmp_path / "images" / "x.tar"), ["prominence/demo:latest"], ImageConfig(cmd=["other"]), [BASE])
    image, status = cache.get(Wanted("prominence/demo"), quiet)
    assert (image.cmd, status) == (["other"], "completed")


def test_compressed_archives(tmp_path: Path) -> None:
    source = tmp_path / "docker.tar"
    write_archive(str(source), ["name:latest"], ImageConfig(), [BASE, layer([Entry("etc/more", 0o644, b"m")])])
    subprocess.run(["gzip", "-k", str(source)], check=True)
    for path in (source, tmp_path / "docker.tar.gz"):
        with Archive(str(path), str(tmp_path), str(path)) as archive:
            found = archive.find("docker.io/library/name")
            assert found is not None
            assert len(found.layers) == 2


@pytest.mark.parametrize("index", [False, True])
def test_a_registry(cache: ImageCache, registry: Registry, index: bool) -> None:
    registry.push("team/tool:v1", ImageConfig(cmd=["x"], env={"A": "b"}), [BASE], index)
    image, status = cache.get(Wanted(f"{registry.host}/team/tool:v1"), quiet)
    assert (status, image.cmd, image.env) == ("completed", ["x"], {"A": "b"})
    assert Path(image.path, "etc/mark").read_text() == "base\n"
    asked = len(registry.seen)
    assert cache.get(Wanted(f"{registry.host}/team/tool:v1"), quiet)[1] == "cached"
    assert len(registry.seen) == asked


def test_a_busy_registry_is_asked_again(cache: ImageCache, registry: Registry) -> None:
    registry.push("tool:v1", ImageConfig(), [BASE])
    registry.fail["/v2/tool/manifests/"] = 2
    registry.fail["/v2/tool/blobs/"] = 2
    registry.damage.update(registry.blobs)
    assert cache.get(Wanted(f"{registry.host}/tool:v1"), quiet)[1] == "completed"


def test_a_dead_registry_is_one_sentence(cache: ImageCache, registry: Registry) -> None:
    registry.fail["/"] = 10**6
    with pytest.raises(PullError) as caught:
        cache.get(Wanted(f"{registry.host}/tool:v1"), quiet)
    assert "\n" not in caught.value.last_line
    assert "503" in caught.value.last_line


def test_what_a_registry_lacks(cache: ImageCache, registry: Registry) -> None:
    with pytest.raises(PullError, match="was not found in its registry"):
        cache.get(Wanted(f"{registry.host}/tool:v1"), quiet)


@pytest.mark.parametrize("bearer", [True, False])
def test_credentials(cache: ImageCache, bearer: bool) -> None:
    registry = Registry(("alice", "s3cret"), bearer)
    try:
        registry.push("tool:v1", ImageConfig(), [BASE])
        name = f"{registry.host}/tool:v1"
        for wrong in (None, Credential("alice", "guess")):
            with pytest.raises(PullError, match="may not be pulled") as caught:
                cache.get(Wanted(name, wrong), quiet)
            assert "guess" not in caught.value.last_line
        assert cache.get(Wanted(name, Credential("alice", "s3cret")), quiet)[1] == "completed"
        assert cache.get(Wanted(name, Credential("alice", "s3cret")), quiet)[1] == "cached"
        # What one owner's credential brought to the node is not for another.
        with pytest.raises(PullError, match="may not be pulled"):
            cache.get(Wanted(name), quiet)
    finally:
        registry.close()
    assert "s3cret" not in repr(Credential("alice", "s3cret"))


def test_an_image_cannot_pose_as_another(cache: ImageCache, registry: Registry) -> None:
    registry.push("good:v1", ImageConfig(cmd=["x"]), [BASE])
    evil = layer([Entry("etc/mark", 0o644, b"evil\n")])
    registry.push("evil:v1", ImageConfig(cmd=["x"]), [BASE])
    packed = next(blob for name, blob in registry.blobs.items() if blob[:2] == b"\x1f\x8b")
    for key, (kind, data) in list(registry.manifests.items()):
        if key.startswith("evil/"):
            import gzip

            blob = gzip.compress(evil, mtime=0)
            registry.blobs[digest(blob)] = blob
            registry.manifests[key] = (kind, data.replace(digest(packed).encode(), digest(blob).encode()))
    with pytest.raises(PullError, match="not the one"):
        cache.get(Wanted(f"{registry.host}/evil:v1"), quiet)
    image, _ = cache.get(Wanted(f"{registry.host}/good:v1"), quiet)
    assert Path(image.path, "etc/mark").read_text() == "base\n"


def test_an_archive_at_a_url(tmp_path: Path, cache: ImageCache, registry: Registry) -> None:
    write_archive(str(tmp_path / "a.tar"), ["whatever"], ImageConfig(cmd=["x"]), [BASE])
    name = digest((tmp_path / "a.tar").read_bytes())
    registry.blobs[name] = (tmp_path / "a.tar").read_bytes()
    image, status = cache.get(Wanted(f"http://{registry.host}/blobs/{name}"), quiet)
    assert (status, image.cmd) == ("completed", ["x"])


def test_many_runners_fetch_once(tmp_path: Path, registry: Registry) -> None:
    registry.push("tool:v1", ImageConfig(), [BASE])
    script = textwrap.dedent(
        """
        import sys
        from airflow_prominence.agent.images.cache import ImageCache
        from airflow_prominence.agent.addresses import EVERYWHERE
        from airflow_prominence.agent.images.model import Wanted
        from airflow_prominence.agent.images.sources import Sources
        cache = ImageCache(sys.argv[1], sources=Sources(allowed=EVERYWHERE))
        image, status = cache.get(Wanted(sys.argv[2]), lambda line: None)
        print(status)
        """
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "cache"), f"{registry.host}/tool:v1"]
    running = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) for _ in range(4)
    ]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert said == ["cached", "cached", "cached", "completed"]
    assert sum("/blobs/" in path for path in registry.seen) == 2


def test_threads_fetch_once(tmp_path: Path, registry: Registry) -> None:
    registry.push("tool:v1", ImageConfig(), [BASE])
    found: list[str] = []

    def pull() -> None:
        made = ImageCache(str(tmp_path / "cache"), sources=HERE)
        found.append(made.get(Wanted(f"{registry.host}/tool:v1"), quiet)[1])
        made.close()

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["cached", "cached", "cached", "completed"]


def test_eviction_spares_what_is_used(tmp_path: Path, registry: Registry) -> None:
    for number in range(3):
        registry.push(
            f"tool:v{number}", ImageConfig(cmd=[str(number)]), [layer([Entry("x", 0o644, bytes(1000 + number))])]
        )
    holder, other = (ImageCache(str(tmp_path / "cache"), sources=HERE) for _ in range(2))
    names = [f"{registry.host}/tool:v{number}" for number in range(3)]
    images = [holder.get(Wanted(name), quiet)[0] for name in names]
    assert other.evict(0) == []
    holder.close()
    kept, _ = holder.get(Wanted(names[0]), quiet)
    for number, image in enumerate(images):
        os.utime(Path(image.path).parent / "image.json", (number, number))
    assert other.evict(1500) == names[1:]
    assert Path(kept.path).is_dir()
    assert not Path(images[1].path).exists()
    assert holder.get(Wanted(names[1]), quiet)[1] == "completed"
    holder.close()


def test_a_node_keeps_its_cache_within_its_part(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        registry.push(f"part:v{number}", ImageConfig(cmd=[str(number)]), [layer([Entry("x", 0o644, bytes(1000))])])
    node = Node(str(tmp_path), {}, {}, None, None)
    cache = node.cache(HERE)
    names = [f"{registry.host}/part:v{number}" for number in range(3)]
    images = [cache.get(Wanted(name), quiet)[0] for name in names]
    cache.close()
    folders = [Path(image.path).parent for image in images]
    for number, folder in enumerate(folders):
        os.utime(folder / "image.json", (number, number))
    size = json.loads((folders[0] / "image.json").read_text())["size"]
    space = SimpleNamespace(f_blocks=3 * size * CACHE_PART, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    left = tmp_path / "cache" / "tmp" / "of-a-killed-pull"
    left.mkdir()
    os.utime(left, (0, 0))

    assert node.trim_cache() == []
    assert not left.exists()
    # with a copy for another user's writable root, as owned_copy makes it, the newest counts twice
    (folders[2] / "rootfs.4711").mkdir()
    with open(tmp_path / "cache" / "locks" / "trim", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert node.trim_cache() == []
    assert node.trim_cache() == [f"image {names[0]}"]
    assert [folder.exists() for folder in folders] == [False, True, True]
