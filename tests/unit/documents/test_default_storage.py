"""A job's storage in the object store's place: what its names mean there."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_prominence.documents import DocumentError, Storage, output_folder, parse_job, stored_path, uploads_of

IDS = {"PROMINENCE_JOB_ID": "7", "PROMINENCE_WORKFLOW_ID": "5"}
DAV = {"url": "https://dav.example.org", "username": "u", "password": "p"}
STORAGE: dict[str, Any] = {"type": "webdav", "mountpoint": "/data", "webdav": DAV, "default": True}


def job(image: str = "busybox", **changes: Any) -> dict[str, Any]:
    return {"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": image}], "storage": STORAGE, **changes}


@pytest.mark.parametrize(
    ("directory", "folder"),
    [
        (None, "prominence/7"),
        ("/", ""),
        ("out", "out"),
        ("/space//./runs/$PROMINENCE_WORKFLOW_ID/job-${PROMINENCE_JOB_ID}/", "space/runs/5/job-7"),
        ("$HOME/x", "$HOME/x"),
    ],
)
def test_where_outputs_go(directory: str | None, folder: str) -> None:
    assert output_folder(directory, IDS) == folder


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/x.tgz", "/data/a/x.tgz"),
        ("/a/x.tgz", "/data/a/x.tgz"),
        ("/data/a/x.tgz", "/data/a/x.tgz"),
        ("data/a/x.tgz", "/data/data/a/x.tgz"),
        ("/database/x.tgz", "/data/database/x.tgz"),
    ],
)
def test_where_the_container_has_it(name: str, path: str) -> None:
    assert stored_path(Storage("webdav", "/data", {}, True), name) == path


def test_nothing_is_an_upload() -> None:
    parsed = parse_job(job("tool.sif", artifacts=[{"url": "x.tgz"}, {"url": "/y"}, {"url": "https://a.example/z"}]))
    assert list(uploads_of(parsed)) == []


@pytest.mark.parametrize("image", ["tool.sif", "/tool.sif", "/data/tool.sif"])
def test_images_by_any_path(image: str) -> None:
    assert parse_job(job(image)).tasks[0].image == image


def test_without_it_a_path_must_be_below_the_mount_point() -> None:
    with pytest.raises(DocumentError, match="is not on the job's storage, which is mounted at /data"):
        parse_job(job("/tool.sif", storage={**STORAGE, "default": False}))
    with pytest.raises(DocumentError, match=r"artifacts\[0\].url: must not be an absolute path"):
        parse_job(job(storage={**STORAGE, "default": False}, artifacts=[{"url": "/y"}]))
