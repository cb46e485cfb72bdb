"""Where a job's node is told to get the images of its tasks."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from airflow_prominence.objects import LocalStore, StoreUnavailable
from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode
from tests.api.test_data import upload
from tests.api.test_staging import fetched, started

NOTHING = {"image_url": None, "image_refusal": None, "sha256": None, "credential": None}


def source(task: dict[str, Any]) -> dict[str, Any]:
    return {key: task[key] for key in NOTHING}


def test_uploaded_images_by_name(http: Any, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api import usertokens

    user = User(http, "ines", usertokens.issue("ines", ["staff"], days=1)[0])
    upload(user, "my-image.v1.sif", b"own")
    upload(user, "staff/images/tool.tgz", b"of all")
    tasks = [
        {"image": "my-image.v1.sif", "app": "tool"},
        {"image": "staff/images/tool.tgz"},
        {"image": "my-image.v1.sif", "imageSha256": "AB" * 32},
        {"image": "busybox"},
    ]
    _, runner = started(user, driver, node, tasks=tasks)
    own, of_all, with_sum, named = runner.assignment["tasks"]
    assert [(task["runtime"], task["app"]) for task in (own, of_all)] == [("singularity", "tool"), ("udocker", None)]
    for task, data in ((own, b"own"), (of_all, b"of all")):
        assert source(task) == NOTHING | {"image_url": task["image_url"], "sha256": hashlib.sha256(data).hexdigest()}
        assert fetched(user, task["image_url"]).content == data
    assert (with_sum["image"], with_sum["sha256"]) == ("my-image.v1.sif", "ab" * 32)
    assert source(named) == NOTHING


@pytest.mark.parametrize("name", ["nobodys.sif", "nobodys.simg", "nobodys.tar", "nobodys.tgz", "others/x.sif"])
def test_an_upload_that_is_not_there_is_refused_at_once(alice: User, name: str) -> None:
    answer = alice.post("/jobs", json=job(tasks=[{"image": name}]))
    assert (answer.status_code, answer.json()) == (400, {"error": f"Image {name} does not exist"})


def test_another_users_image_does_not_exist(alice: User, bob: User) -> None:
    upload(alice, "mine.sif")
    answer = bob.post("/jobs", json=job(tasks=[{"image": "mine.sif"}]))
    assert (answer.status_code, answer.json()) == (400, {"error": "Image mine.sif does not exist"})


def test_an_image_that_was_deleted_in_the_meantime(alice: User, driver: Driver, node: PretendNode) -> None:
    upload(alice, "gone.sif")
    job_id = alice.submit(tasks=[{"image": "gone.sif"}])
    assert alice.delete("/data/gone.sif").status_code == 204
    driver.claim(job_id)
    [task] = node.take().assignment["tasks"]
    sentence = "image: gone.sif does not exist any more among the uploads"
    assert source(task) == NOTHING | {"image_refusal": sentence}


def test_a_store_that_is_away_for_a_moment(
    alice: User, driver: Driver, node: PretendNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(alice, "later.sif", b"later")
    job_id = alice.submit(tasks=[{"image": "later.sif"}])
    driver.claim(job_id)

    def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "stat", away)
        [task] = node.take().assignment["tasks"]
    assert source(task) == NOTHING | {"image_url": task["image_url"]}
    assert fetched(alice, task["image_url"]).content == b"later"


def test_names_that_are_no_uploads(alice: User, driver: Driver, node: PretendNode) -> None:
    images = [
        "shub://user/tool:1",
        "https://a.example/x.sif?token=s",
        "registry.example:5000/a/b@sha256:",
    ]
    images[-1] += "0" * 64
    _, runner = started(alice, driver, node, tasks=[{"image": image} for image in images])
    assert [(task["image"], source(task)) for task in runner.assignment["tasks"]] == [(i, NOTHING) for i in images]
