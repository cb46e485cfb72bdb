"""What a job can leave behind, all of which must be counted and must go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.agent import stage
from airflow_prominence.agent.images.tree import remove_tree
from airflow_prominence.agent.limits import DiskWatch

FOLDER = os.O_RDONLY | os.O_DIRECTORY
DEPTH = 3000  # past Python's stack, a process's open files (1024) and, with such names, the longest path


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Path]:
    """A folder with a nest of folders in it and 3 MB at its very bottom."""
    root = tmp_path / "job"
    root.mkdir()
    here = os.open(root, FOLDER)
    for _ in range(DEPTH):
        os.mkdir("folder", dir_fd=here)
        below = os.open("folder", FOLDER, dir_fd=here)
        os.close(here)
        here = below
    data = os.open("data", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here)
    os.write(data, b"x" * 3_000_000)
    os.close(data)
    os.close(here)
    yield root
    remove_tree(str(root))


def test_the_deepest_nest_is_removed(nest: Path) -> None:
    assert stage.remove(str(nest))
    assert not nest.exists()


def test_what_lies_deep_is_counted(nest: Path) -> None:
    folders_mb = DEPTH * 4096 // 1024 // 1024
    small, big = DiskWatch([str(nest)], [], folders_mb + 2), DiskWatch([str(nest)], [], folders_mb + 10)
    assert [small.exceeded([], slice_s=60) for _ in range(2)] == [False, True]
    assert not any(big.exceeded([], slice_s=60) for _ in range(2))


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "kept").touch()
    root = tmp_path / "job"
    closed = root / "closed"
    closed.mkdir(parents=True)
    (closed / "to-folder").symlink_to(outside)
    (root / "to-folder").symlink_to(outside)
    (root / "to-itself").symlink_to("to-itself")
    os.link(outside / "kept", closed / "hard")
    os.mkfifo(closed / "fifo")
    (root / "a\nb \udcff").touch()
    closed.chmod(0)
    assert stage.remove(str(root))
    assert not root.exists()
    assert (outside / "kept").exists()
    assert outside.stat().st_mode & 0o777 == 0o750


def test_what_cannot_go_does_not_keep_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "job"
    (root / "a" / "mount").mkdir(parents=True)
    for name in ("a/x", "b"):
        (root / name).touch()
    real = os.rename

    def busy(source: str, target: str, **more: int) -> None:
        if source == "mount":
            raise OSError(16, "Device or resource busy")
        real(source, target, **more)

    monkeypatch.setattr(os, "rename", busy)
    assert not stage.remove(str(root))
    assert sorted(path.name for path in root.rglob("*")) == ["a", "mount"]
