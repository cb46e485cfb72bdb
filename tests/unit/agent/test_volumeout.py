"""Outputs on a folder of the job's own: no link is followed there, and nothing is half written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.agent.staging.keeping import NOT_STORED, StageOutFailed
from airflow_prominence.agent.staging.volumeout import VolumeFolder

DATA = os.urandom(3_000_000)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir()
    return made


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(DATA)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    yield fd
    os.close(fd)


def store(volume: Path, folder: str, file: str, source: int) -> tuple[int, str, int]:
    return VolumeFolder(str(volume), folder).open().store(file, source)


@pytest.mark.parametrize("folder", ["", "a", "/a/b//c"])
def test_it_is_there_with_size_and_checksum(volume: Path, source: int, folder: str) -> None:
    size, sha256, tries = store(volume, folder, "out", source)
    assert (size, sha256, tries) == (len(DATA), hashlib.sha256(DATA).hexdigest(), 1)
    assert (volume / folder.lstrip("/") / "out").read_bytes() == DATA
    assert [path.name for path in (volume / folder.lstrip("/")).iterdir()] == ["out"]


def test_a_file_of_its_name_is_replaced(volume: Path, source: int) -> None:
    (volume / "out").write_bytes(DATA * 2)
    store(volume, "", "out", source)
    assert (volume / "out").read_bytes() == DATA


def test_a_link_of_its_name_is_replaced_not_followed(volume: Path, source: int) -> None:
    outside = volume.parent / "outside"
    outside.write_text("mine\n")
    (volume / "out").symlink_to(outside)
    (volume / ".out.part").symlink_to(outside)
    store(volume, "", "out", source)
    assert (volume / "out").read_bytes() == DATA
    assert outside.read_text() == "mine\n"


@pytest.mark.parametrize("target", ["..", "/tmp", "real"])
def test_a_link_on_the_way_is_refused(volume: Path, source: int, target: str) -> None:
    (volume / "real").mkdir()
    (volume / "way").symlink_to(target)
    with pytest.raises(StageOutFailed, match="the path 'way' leads through a link or a file") as refusal:
        store(volume, "way/further", "out", source)
    assert refusal.value.reason == NOT_STORED
    assert not (volume / "real" / "further").exists()
    assert not (volume.parent / "further").exists()


def test_a_folder_of_its_name_stays(volume: Path, source: int) -> None:
    (volume / "out").mkdir()
    (volume / "out" / "in").touch()
    with pytest.raises(StageOutFailed, match="'out' is a folder already"):
        store(volume, "", "out", source)
    assert [path.name for path in volume.iterdir()] == ["out"]
    assert (volume / "out" / "in").exists()


def test_what_is_gone_is_told(volume: Path) -> None:
    with pytest.raises(StageOutFailed, match="the job's storage can't be used, No such file or directory"):
        VolumeFolder(str(volume / "nowhere"), "").open()
