"""Outputs of a workflow's jobs as artifacts of those that depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode, PretendRunner
from tests.api.test_data import upload
from tests.api.test_staging import fetched, store_output
from tests.api.test_workflows import Flow, job, one, sweep, taken

AFTER = {"a": ["b"]}


@pytest.fixture
def flow(alice: User, driver: Driver) -> Callable[..., Flow]:
    return lambda *jobs, **more: Flow(alice, driver, *jobs, **more)


def taking(name: str, *urls: str, **more: Any) -> dict[str, Any]:
    return job(name, artifacts=[{"url": url} for url in urls], **more)


def stored(user: User, runner: PretendRunner, files: dict[str, bytes], **more: Any) -> None:
    for name, data in files.items():
        assert store_output(user, runner, name, data, **more).status_code == 200


def brought(user: User, runner: PretendRunner) -> dict[str, bytes]:
    """What a node would fetch, by where it would put it."""
    return {
        "/".join(filter(None, (item["folder"], item["filename"]))): fetched(user, item["url"]).content
        for item in runner.assignment["artifacts"]
    }


def test_a_child_gets_its_parents_outputs(flow: Callable[..., Flow], node: PretendNode, alice: User) -> None:
    first = job("a", outputFiles=["r/x.txt", "*.dat"], outputDirs=["d"])
    made = flow(first, taking("b", "a/x.txt", "a/*.dat", "a/d.tgz"), dependencies=AFTER)
    runner = one(node)
    stored(alice, runner, {"x.txt": b"x"}, name="r/x.txt", asked="r/x.txt")
    stored(alice, runner, {"1.dat": b"1", "2.dat": b"2"}, asked="*.dat")
    stored(alice, runner, {"d.tgz": b"d"}, name="d", asked="d", kind="dir")
    runner.run()
    made.begin("b")
    child = one(node)
    assert brought(alice, child) == {"x.txt": b"x", "1.dat": b"1", "2.dat": b"2", "d.tgz": b"d"}
    assert {item["ours"] for item in child.assignment["artifacts"]} == {True}
    assert {len(item["sha256"]) for item in child.assignment["artifacts"]} == {64}
    child.run()
    made.ended()
    # The document is shown as it was sent.
    shown = made.jobs()["flow/b"]["artifacts"]
    assert [item["url"] for item in shown] == ["a/x.txt", "a/*.dat", "a/d.tgz"]


def test_of_a_factorys_jobs_all_are_brought(flow: Callable[..., Flow], node: PretendNode, alice: User) -> None:
    scan = job("a", outputFiles=["out.txt", "of-$n.txt"])
    urls = ["a/out.txt", "a/of-$n.txt", "a/of-2.txt", "a/1/out.txt"]
    child = taking("b", *urls)
    child["artifacts"][0]["mountpoint"] = "a:/all"
    made = flow(scan, child, dependencies=AFTER, factories=[sweep("a", "n", 3)])
    for number, runner in enumerate(taken(node, 3)):
        stored(alice, runner, {"out.txt": b"%d" % number, f"of-{number + 1}.txt": b"of"})
        runner.run()
    made.begin("b")
    given = one(node)
    places = [(item["folder"], item["filename"]) for item in given.assignment["artifacts"]]
    assert places == [
        *((f"a/{number}", "out.txt") for number in range(3)),
        *((f"a/{number}", f"of-{number + 1}.txt") for number in range(3)),
        ("a/1", "of-2.txt"),
        (None, "out.txt"),
    ]
    assert [item["mountpoint"] for item in given.assignment["artifacts"]] == ["a:/all", *[None] * 7]
    assert brought(alice, given)["a/2/out.txt"] == b"2"
    assert brought(alice, given)["out.txt"] == b"1"
    made.user.delete(f"/workflows/{made.id}")


def test_a_retry_gets_what_the_last_attempt_left(flow: Callable[..., Flow], node: PretendNode, alice: User) -> None:
    first = job("a", outputFiles=["x"], policies={"maximumRetries": 1})
    made = flow(first, taking("b", "a/x", policies={"maximumRetries": 1}), dependencies=AFTER)
    for data, code in ((b"first", 1), (b"second", 0)):
        runner = one(node)
        stored(alice, runner, {"x": data})
        runner.run(exit_code=code)
    made.begin("b")
    child = one(node)
    assert brought(alice, child) == {"x": b"second"}
    child.run(exit_code=1)
    again = one(node)
    assert again.assignment["attempt"] == 2
    assert brought(alice, again) == {"x": b"second"}
    made.user.delete(f"/workflows/{made.id}")


def test_a_rerun_takes_what_was_kept(flow: Callable[..., Flow], node: PretendNode, alice: User, driver: Driver) -> None:
    scan = job("a", outputFiles=["out.txt"])
    made = flow(scan, taking("b", "a/out.txt"), dependencies=AFTER, factories=[sweep("a", "n", 2)])
    for number, runner in enumerate(taken(node, 2)):
        stored(alice, runner, {"out.txt": b"%d" % number})
        runner.run()
    made.begin("b")
    one(node).run(exit_code=1)
    made.ended()
    for _ in range(2):
        again = Flow.__new__(Flow)
        again.id, again.user, again.driver = int(alice.put(f"/workflows/{made.id}").json()["id"]), alice, driver
        again.dag_id, again.run_id = f"workflow-{again.id}.flow", f"workflow-{again.id}"
        again.begin("b")
        runner = one(node)
        assert brought(alice, runner) == {"a/0/out.txt": b"0", "a/1/out.txt": b"1"}
        runner.run(exit_code=1)
        again.ended()
        made = again


def test_what_is_not_kept_any_more_is_missing(
    flow: Callable[..., Flow], node: PretendNode, alice: User, database: sa.Engine
) -> None:
    """The node will fail the job, and say why."""
    made = flow(job("a", outputFiles=["x", "y"]), taking("b", "a/x"), dependencies=AFTER)
    runner = one(node)
    stored(alice, runner, {"y": b"y"})
    runner.run()
    made.begin("b")
    [item] = one(node).assignment["artifacts"]
    assert (item["filename"], item["url"]) == ("x", "")
    assert item["missing"] == "a has left no such output, or it is no longer kept"
    made.user.delete(f"/workflows/{made.id}")


def test_a_job_goes_before_a_group_of_its_name(http: Any, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api import usertokens

    group = "lab"
    member = User(http, "gatherer", usertokens.issue("gatherer", [group], days=1)[0])
    for name in ("both.txt", "uploaded.txt"):
        upload(member, f"{group}/{name}", b"upload")
    made = Flow(
        member,
        driver,
        job(group, outputFiles=["both.txt"]),
        taking("b", f"{group}/both.txt", f"{group}/uploaded.txt"),
        dependencies={group: ["b"]},
    )
    runner = one(node)
    stored(member, runner, {"both.txt": b"output"})
    runner.run()
    made.begin("b")
    child = one(node)
    urls = child.assignment["artifacts"]
    assert [fetched(member, item["url"]).content for item in urls] == [b"output", b"upload"]
    made.user.delete(f"/workflows/{made.id}")


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        (["c/x"], 'jobs[1].artifacts[0].url: is an output of "c", which "b" does not depend on'),
        (["a/y"], 'jobs[1].artifacts[0].url: "a" keeps no "y", but "x"'),
        (["nothing/y"], "Artifact nothing/y does not exist"),
    ],
)
def test_what_is_no_output_is_refused(alice: User, urls: list[str], sentence: str) -> None:
    jobs = [job("a", outputFiles=["x"]), taking("b", *urls), job("c", outputFiles=["x"])]
    answer = alice.post("/workflows", json={"name": "w", "jobs": jobs, "dependencies": AFTER})
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
