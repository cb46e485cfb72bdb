"""What a job's node is given to fetch and to store, what it reports of it, and what users see of that."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode, PretendRunner
from tests.api.test_data import upload
from tests.api.test_retention import age


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


def store_output(user: User, runner: PretendRunner, file: str, data: bytes, **more: Any) -> Any:
    """Store an output as a node does: ask for a URL with the job's token, put the bytes there, report it."""
    given = runner.assignment
    answer = user._http.post(
        urlsplit(given["output_url"]).path,
        json={"name": f"{given['outputs_folder']}/{file}"},
        headers={"Authorization": f"Bearer {given['job_token']}"},
    )
    assert answer.status_code == 201, answer.text
    assert fetched(user, answer.json()["url"], "PUT", content=data).status_code == 201
    facts = {"file": file, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return runner.send(runner.made("output", **{"name": file, "asked": file, "kind": "file", **facts, **more}))


def end(runner: PretendRunner, status: str = "completed") -> None:
    runner.report("end", status=status, reason="", node_success=status == "completed", execution={"tasks": []})


def test_outputs_have_a_name_a_size_and_a_url(alice: User, driver: Driver, node: PretendNode) -> None:
    asked = {"outputFiles": ["r/a.txt", "*.dat", "none"], "outputDirs": ["out", "a.txt"]}
    job_id, runner = started(alice, driver, node, **asked)
    given = runner.assignment
    assert given["outputs"] == [
        *({"kind": "file", "name": name} for name in asked["outputFiles"]),
        *({"kind": "dir", "name": name} for name in asked["outputDirs"]),
    ]
    assert alice.describe(job_id)["outputFiles"] == [{"name": name, "url": ""} for name in asked["outputFiles"]]
    runner.report("running")
    runner.report("stage_out")
    assert alice.describe(job_id)["status"] == "running"
    for file, data, more in (
        ("a.txt", b"text", {"name": "r/a.txt", "asked": "r/a.txt"}),
        ("2.dat", b"22", {"asked": "*.dat"}),
        ("1.dat", b"1", {"asked": "*.dat"}),
        ("out.tgz", b"packed", {"name": "out", "asked": "out", "kind": "dir"}),
    ):
        assert store_output(alice, runner, file, data, **more).status_code == 200
    end(runner)
    [described] = alice.get(f"/jobs?id={job_id}&detail=true").json()
    files, folders = described["outputFiles"], described["outputDirs"]
    assert [(item["name"], item.get("size")) for item in files] == [
        ("r/a.txt", 4),
        ("1.dat", 1),
        ("2.dat", 2),
        ("none", None),
    ]
    assert [(item["name"], item.get("size")) for item in folders] == [("out", 6), ("a.txt", None)]
    assert files[3] == {"name": "none", "url": ""}
    assert set(files[0]) == {"name", "size", "url"}
    contents = [fetched(alice, item["url"]).content for item in [*files[:3], folders[0]]]
    assert contents == [b"text", b"1", b"22", b"packed"]
    # a URL is good without a token, for whoever has it, and for this one object
    assert fetched(alice, files[0]["url"].replace("a.txt", "1.dat")).status_code == 403


def test_only_the_last_attempts_outputs_are_the_jobs(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node, outputFiles=["a", "b"], policies={"maximumRetries": 2})
    for file in ("a", "b"):
        assert store_output(alice, runner, file, b"first").status_code == 200
    runner.report("end", status="completed", reason="", node_success=False, execution={"tasks": []})
    driver.claim(job_id)
    runner = node.take(job_id)
    assert store_output(alice, runner, "b", b"second!").status_code == 200
    end(runner)
    first, second = alice.describe(job_id)["outputFiles"]
    assert first == {"name": "a", "url": ""}
    assert (second["size"], fetched(alice, second["url"]).content) == (7, b"second!")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"asked": "other"}, "asked"),
        ({"kind": "dir"}, "asked"),
        ({"kind": "key"}, "asked"),
        ({"file": "../../uploads/bob/x"}, "file"),
        ({"file": ".."}, "file"),
        ({"file": ""}, "file"),
        ({"name": ""}, "name"),
        ({"size": "4"}, "size"),
    ],
)
def test_a_runner_can_claim_nothing_that_is_not_the_jobs(
    alice: User, driver: Driver, node: PretendNode, change: dict[str, Any], field: str
) -> None:
    job_id, runner = started(alice, driver, node, outputFiles=["a"])
    facts = {"name": "a", "asked": "a", "kind": "file", "file": "a", "size": 1, "sha256": "0" * 64} | change
    answer = runner.send(runner.made("output", **facts))
    assert (answer.status_code, answer.json()["error"].startswith(f"reports.data.{field}: ")) == (400, True)
    assert alice.describe(job_id)["outputFiles"] == [{"name": "a", "url": ""}]


def test_outputs_are_the_owners(alice: User, bob: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node, outputFiles=["a"])
    assert store_output(alice, runner, "a", b"x").status_code == 200
    end(runner)
    assert bob.get(f"/jobs/{job_id}").json() == []
    assert bob.get(f"/jobs?id={job_id}&detail=true").json() == []
    token = {"Authorization": f"Bearer {runner.assignment['job_token']}"}
    name = {"name": f"{runner.assignment['outputs_folder']}/a"}
    answer = alice._http.post(urlsplit(runner.assignment["output_url"]).path, json=name, headers=token)
    assert answer.status_code == 401, "a job's token dies with the job"


def test_removed_outputs_have_no_url(alice: User, driver: Driver, node: PretendNode, database: sa.Engine) -> None:
    job_id, runner = started(alice, driver, node, outputFiles=["a"])
    assert store_output(alice, runner, "a", b"x").status_code == 200
    end(runner)
    url = alice.describe(job_id)["outputFiles"][0]["url"]
    assert fetched(alice, url).status_code == 200
    age(database, job_id, 31)
    assert driver.post("/maintenance").json()["outputs_removed"] == 1
    assert alice.describe(job_id)["outputFiles"] == [{"name": "a", "url": ""}]
    assert fetched(alice, url).status_code == 404


DAV = {"url": "https://dav.example.org", "username": "u", "password": "p"}
DEFAULT = {"type": "webdav", "mountpoint": "/data", "webdav": DAV, "default": True}


def test_storage_in_the_object_stores_place(alice: User, driver: Driver, node: PretendNode) -> None:
    """Nothing is looked for among the uploads, and what is stored there is described by its path."""
    upload(alice, "x.tgz")
    asked = {"outputFiles": ["r/a.txt", "none"], "outputDirs": ["out"]}
    storage = {**DEFAULT, "directory": "/runs//$PROMINENCE_JOB_ID"}
    names = ["x.tgz", "/in/y.csv", "/data/z", "of-$PROMINENCE_JOB_ID/v", "https://a.example/w"]
    artifacts = [{"url": name} for name in names]
    tasks = [{"image": "tool.sif"}, {"image": "/tool.sif"}, {"image": "/data/tool.sif"}, {"image": "busybox"}]
    job_id, runner = started(alice, driver, node, storage=storage, artifacts=artifacts, tasks=tasks, **asked)
    given = runner.assignment
    there = ["/data/x.tgz", "/data/in/y.csv", "/data/z", f"/data/of-{job_id}/v"]
    assert [item.get("stored") for item in given["artifacts"]] == [*there, None]
    assert [item["url"] for item in given["artifacts"]] == ["", "", "", "", "https://a.example/w"]
    assert [task["image"] for task in given["tasks"]] == [*["/data/tool.sif"] * 3, "busybox"]
    assert not any(task["image_url"] or task["sha256"] for task in given["tasks"])
    assert (given["outputs_folder"], given["outputs_on_storage"]) == (f"runs/{job_id}", True)
    runner.report("running")
    for name, kind, file in (("r/a.txt", "file", "a.txt"), ("out", "dir", "out.tgz")):
        runner.report("output", name=name, asked=name, kind=kind, file=file, size=3, sha256="0" * 64)
    end(runner)
    described = alice.describe(job_id)
    stored = [{"name": "r/a.txt", "size": 3, "url": "", "path": f"runs/{job_id}/a.txt"}, {"name": "none", "url": ""}]
    assert described["outputFiles"] == stored
    assert described["outputDirs"] == [{"name": "out", "size": 3, "url": "", "path": f"runs/{job_id}/out.tgz"}]
    account = {"url": DAV["url"], "username": "***", "password": "***"}
    assert described["storage"] == {**storage, "webdav": account}
    assert [task["image"] for task in described["tasks"]] == [task["image"] for task in tasks]
    # what is not ours is not ours to remove
    assert set(described["execution"]["retention"]) == {"stdout", "description"}


def test_each_job_has_a_folder_of_its_own_there(alice: User, driver: Driver, node: PretendNode) -> None:
    job_id, runner = started(alice, driver, node, storage=DEFAULT, outputFiles=["a"])
    assert runner.assignment["outputs_folder"] == f"prominence/{job_id}"
