"""What a job's node is given to fetch and to store, what it reports of it, and what users see of that."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlsplit

from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode, PretendRunner
from tests.api.test_data import upload


def started(user: User, driver: Driver, node: PretendNode, **changes: Any) -> tuple[int, PretendRunner]:
    job_id = user.submit(**changes)
    assert driver.claim(job_id)["phase"] == "ready"
    return job_id, node.take()


def fetched(user: User, url: str, method: str = "GET", **more: Any) -> Any:
    split = urlsplit(url)
    return user._http.request(method, f"{split.path}?{split.query}", **more)


def test_artifacts_by_url_and_by_name(http: Any, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api import usertokens

    user = User(http, "dora", usertokens.issue("dora", ["staff"], days=1)[0])
    upload(user, "in put.tgz", b"own")
    upload(user, "staff/sub/data.zip", b"of all")
    artifacts = [
        {"url": "https://a.example/d/x%20y.csv?token=s#part", "executable": True},
        {"url": "in put.tgz", "mountpoint": "data:/mnt//data/"},
        {"url": "staff/sub/data.zip"},
    ]
    _, runner = started(user, driver, node, artifacts=artifacts)
    by_url, own, of_all = runner.assignment["artifacts"]
    assert by_url == {
        "filename": "x y.csv",
        "mountpoint": None,
        "executable": True,
        "url": "https://a.example/d/x%20y.csv?token=s#part",
        "sha256": None,
        "ours": False,
    }
    for found, name, mountpoint, data in (
        (own, "in put.tgz", "data:/mnt/data", b"own"),
        (of_all, "data.zip", None, b"of all"),
    ):
        assert (found["filename"], found["mountpoint"], found["executable"]) == (name, mountpoint, False)
        assert (found["ours"], found["sha256"]) == (True, hashlib.sha256(data).hexdigest())
        assert fetched(user, found["url"]).content == data


def test_an_upload_that_is_gone_is_the_nodes_to_miss(alice: User, driver: Driver, node: PretendNode) -> None:
    upload(alice, "in.tgz")
    job_id = alice.submit(artifacts=[{"url": "in.tgz"}])
    assert alice.delete("/data/in.tgz").status_code == 204
    driver.claim(job_id)
    [found] = node.take().assignment["artifacts"]
    assert (found["ours"], found["sha256"]) == (True, None)
    assert fetched(alice, found["url"]).status_code == 404


def test_the_client_cuts_a_url_at_its_port(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(
        alice, driver, node, artifacts=[{"url": "http", "mountpoint": "//data.example:8080/x.tgz"}]
    )
    assert runner.assignment["artifacts"][0]["url"] == "http://data.example:8080/x.tgz"
    assert alice.describe(job_id)["artifacts"] == [{"url": "http://data.example:8080/x.tgz"}]


def test_input_files_have_a_limit_each_and_the_body_one_above_it(alice: User) -> None:
    import base64

    whole = base64.b64encode(bytes(1_000_000)).decode()
    inputs = [{"filename": f"f{number}", "content": whole} for number in range(2)]
    assert alice.post("/jobs", json=job(inputs=inputs)).status_code == 201
    larger = base64.b64encode(bytes(1_000_001)).decode()
    answer = alice.post("/jobs", json=job(inputs=[*inputs, {"filename": "x", "content": larger}]))
    sentence = "inputs[2].content: is too large: at most 1000000 bytes are allowed in one input"
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
    many = [{"filename": f"f{number}", "content": whole} for number in range(4)]
    answer = alice.post("/jobs", json=job(inputs=many))
    assert (answer.status_code, answer.json()) == (413, {"error": "The request is larger than 4 MB"})
