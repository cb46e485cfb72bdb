"""Names that jobs of a workflow may have, however odd: each is found by it, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode
from tests.api.test_workflows import Flow, job, repeat, taken

#: What Airflow or our own routes have a use for, what folders and URLs mean otherwise, and what is one in another case.
ODD = [
    *("outcome", "workflow", "begin", "run", "run.provision", "stdout", "stderr", "clone", "0", "1", "jobs"),
    *("my job", " led", "a.b", "a_b", "a b", "A_B", "...", "-", "--help", "_", "x" * 505),
]


@pytest.fixture
def big_node(http: object) -> PretendNode:
    return PretendNode(http, cpus=64, memory_mb=65536, disk_mb=655360)


@pytest.fixture
def flow(alice: User, driver: Driver) -> Callable[..., Flow]:
    return lambda *jobs, **more: Flow(alice, driver, *jobs, **more)


def test_each_job_is_found_by_its_name(flow: Callable[..., Flow], big_node: PretendNode) -> None:
    made = flow(*map(job, ODD))
    runners = taken(big_node, len(ODD))
    assert [runner.assignment["name"] for runner in runners] == [f"flow/{name}" for name in ODD]
    for name, runner in zip(ODD, runners, strict=True):
        runner.write("stdout", 0, f"out of {name}".encode())
        runner.write("stderr", 0, f"err of {name}".encode())
        runner.run()
    for name in ODD:
        path = f"/workflows/{made.id}/{quote(name, safe='')}"
        assert made.user.get(f"{path}/stdout?node=0&offset=0").text == f"out of {name}"
        assert made.user.get(f"{path}/stderr").text == f"err of {name}"
        # As the released client asks: the name where the node belongs, and the node where the name does.
        swapped = made.user.get(f"/workflows/{made.id}/0/stderr", params={"node": name, "offset": 0})
        assert swapped.text == f"err of {name}"
    for path in ("nobody/stderr", "0/stderr?node=nobody", "0/0/stderr?node=begin", "0/9/stderr?node=nobody"):
        answer = made.user.get(f"/workflows/{made.id}/{path}")
        assert (answer.status_code, answer.json()) == (400, {"error": "stderr does not exist"}), path
    assert set(made.jobs()) == {f"flow/{name}" for name in ODD}
    assert made.ended()["status"] == "completed"
    big_node.gone()


def test_odd_names_of_a_factorys_jobs(flow: Callable[..., Flow], big_node: PretendNode) -> None:
    made = flow(job("0"), job("1"), factories=[repeat("0", 2), repeat("1", 2)])
    for runner in taken(big_node, 4):
        runner.write("stderr", 0, runner.assignment["name"].encode())
        runner.run()
    for name in ("0", "1"):
        for number in range(2):
            for path in (f"{name}/{number}/stderr", f"0/{number}/stderr?node={name}"):
                assert made.user.get(f"/workflows/{made.id}/{path}").text == f"flow/{name}/{number}", path
    big_node.gone()


@pytest.mark.parametrize(
    "path", ["b%00d", "%C3%A4", "a%2Fb", "%2E%2E", "a/b", "a/-1", "a/99999999999999999999", "%F0%9F%98%80"]
)
def test_names_that_no_job_has(flow: Callable[..., Flow], path: str) -> None:
    made = flow(job("a"))
    for stream in ("stdout", "stderr"):
        for node in ("", "?node=b%00d", "?node=9", f"?node={'9' * 30}"):
            answer = made.user.get(f"/workflows/{made.id}/{path}/{stream}{node}")
            assert answer.status_code in (400, 404), answer.text
            assert set(answer.json()) == {"error"}
    made.user.delete(f"/workflows/{made.id}")


@pytest.mark.parametrize("workflow", ["0", "-1", "x", "1%00", "9" * 18, "9" * 40, "%20"])
def test_ids_that_no_workflow_has(alice: User, workflow: str) -> None:
    assert alice.get(f"/workflows/{workflow}").json() == []
    for method, path, sentence in (
        ("GET", "/a/stdout", "Workflow does not exist"),
        ("PUT", "/clone", "Workflow does not exist"),
        ("PUT", "", "Workflow does not exist"),
        ("PUT", "/remove", "Workflow does not exist"),
        ("DELETE", "", "No such workflow(s)"),
    ):
        answer = alice.request(method, f"/workflows/{workflow}{path}")
        assert (answer.status_code, answer.json()) == (400, {"error": sentence}), (method, path)


def test_a_workflow_without_a_name(alice: User, driver: Driver, node: PretendNode) -> None:
    made = Flow(alice, driver, job("a"), job("b"), name="", factories=[repeat("b", 1)])
    made.dag_id = f"workflow-{made.id}"
    assert made.describe()["name"] == ""
    first, second = taken(node, 2)
    assert (first.assignment["name"], second.assignment["name"]) == ("/a", "/b/0")
    first.run()
    second.run()
    assert made.ended()["status"] == "completed"
    assert made.outcome()["success"]
    assert set(made.jobs()) == {"/a", "/b/0"}


def test_names_too_long_together_are_refused(alice: User) -> None:
    """What a job is called is the workflow's name, its own and its number."""
    body = {"name": "w" * 300, "jobs": [job("a"), job("j" * 209)], "factories": [repeat("j" * 209, 11)]}
    answer = alice.post("/workflows", json=body)
    sentence = (
        "jobs[1].name: is too long: with that of the workflow it makes a name of 513 characters, the limit is 512"
    )
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
    body["factories"] = [repeat("j" * 209, 10)]
    answer = alice.post("/workflows", json=body)
    assert answer.status_code == 201, answer.text
    alice.delete(f"/workflows/{answer.json()['id']}")
