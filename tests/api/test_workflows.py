"""Workflows over REST and through the internal routes: submission, gates, ends, reruns, shares."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.conftest import job as document
from tests.api.node import Driver, PretendNode, PretendRunner
from tests.api.test_life import soon


def job(name: str, cmd: str = "date", **changes: Any) -> dict[str, Any]:
    task = {"image": "busybox", "runtime": "singularity", "cmd": cmd}
    return document(name=name, tasks=[task], **changes)


def repeat(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "type": "repeat", "jobs": [name], "number": number}


def sweep(name: str, parameter: str, end: int) -> dict[str, Any]:
    values = {"name": parameter, "start": 1, "end": end, "step": 1}
    return {"name": name, "type": "parameterSweep", "jobs": [name], "parameters": [values]}


class Flow:
    """A submitted workflow, and what the triggers of its tasks do."""

    def __init__(self, user: User, driver: Driver, *jobs: dict[str, Any], **more: Any) -> None:
        answer = user.post("/workflows", json={"name": "flow", "jobs": list(jobs), **more})
        assert answer.status_code == 201, answer.text
        assert set(answer.json()) == {"id"}
        self.id, self.user, self.driver = int(answer.json()["id"]), user, driver
        self.dag_id, self.run_id = f"workflow-{self.id}.flow", f"workflow-{self.id}"

    def describe(self) -> dict[str, Any]:
        answer = self.user.get(f"/workflows/{self.id}")
        assert answer.status_code == 200, answer.text
        [found] = answer.json()
        return dict(found)

    def status(self) -> tuple[str, dict[str, int]]:
        found = self.describe()
        return found["status"], found["progress"]

    def jobs(self, **query: str) -> dict[str, dict[str, Any]]:
        path = f"/jobs?id={self.id}&workflow=true&num=-1&all=true&detail=true"
        return {found["name"]: found for found in self.user.get(path, params=None).json()}

    def begin(self, group: str) -> dict[str, Any]:
        """The first task of a job's group comes to the triggerer."""
        answer = self.driver.post(f"/runs/{self.dag_id}/{self.run_id}/job", {"group": group})
        assert answer.status_code == 200, answer.text
        return self.driver.claim(answer.json()["job"]["id"])

    def begin_share(self, group: str, index: int) -> int:
        where = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": group, "map_index": index}
        answer = self.driver.post("/shares/begin", where)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["chunks"])

    def share(self, group: str, index: int, chunks: int) -> dict[str, int]:
        where = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": group, "map_index": index}
        return dict(self.driver.post("/shares/progress", {"shares": [{**where, "chunks": chunks}]}).json()["shares"][0])

    def outcome(self) -> dict[str, Any]:
        return dict(self.driver.post(f"/runs/{self.dag_id}/{self.run_id}/outcome").json())

    def ended(self) -> dict[str, Any]:
        soon(lambda: "endTime" in self.describe()["events"])
        return self.describe()


def taken(node: PretendNode, count: int = 1) -> list[PretendRunner]:
    """So many new assignments of the node, now held, by their jobs' order; a place is given a moment after a wish."""
    found: list[PretendRunner] = []

    def enough() -> bool:
        for given in node.poll()["start"]:
            if given["lease"] not in node.held:
                node.held[given["lease"]] = "running"
                found.append(PretendRunner(node._http, given))
        return len(found) >= count

    soon(enough)
    assert len(found) == count, [runner.assignment["name"] for runner in found]
    return sorted(found, key=lambda runner: int(runner.assignment["job"]))


def one(node: PretendNode) -> PretendRunner:
    """The one new assignment of the node."""
    [runner] = taken(node)
    return runner


@pytest.fixture
def flow(alice: User, driver: Driver) -> Callable[..., Flow]:
    return lambda *jobs, **more: Flow(alice, driver, *jobs, **more)


def progress(total: int, done: int = 0, failed: int = 0, queued: int = 0, waiting: int = 0) -> dict[str, int]:
    return {"total": total, "done": done, "failed": failed, "queued": queued, "waiting": waiting}


@pytest.fixture
def big_node(http: Any) -> Iterator[PretendNode]:
    """A node with room for a whole factory."""
    node = PretendNode(http, cpus=64, memory_mb=65536, disk_mb=655360)
    yield node
    node.gone()


def test_a_chain_from_submission_to_its_end(flow: Callable[..., Flow], node: PretendNode) -> None:
    chain = flow(job("a"), job("b"), dependencies={"a": ["b"]}, labels={"kind": "test"})
    first = one(node)
    assert first.assignment["name"] == "flow/a"
    assert first.assignment["workflow"] == chain.id
    assert first.assignment["env"]["PROMINENCE_WORKFLOW_ID"] == str(chain.id)
    assert node.poll()["start"] == []
    first.run()
    assert chain.status() == ("running", progress(2, done=1, waiting=1))
    assert node.poll()["start"] == []
    # Only Airflow starts the child, when the parent's tasks have succeeded.
    assert chain.begin("b")["phase"] == "ready"
    one(node).run()
    end = chain.ended()
    assert (end["status"], end["progress"]) == ("completed", progress(2, done=2))
    assert chain.outcome() == {"success": True, "pending": False, "reason": "The workflow is completed"}
    assert end["events"]["createTime"] <= end["events"]["startTime"] <= end["events"]["endTime"]
    # The document is shown as it was sent, with its defaults.
    assert [item["name"] for item in end["jobs"]] == ["a", "b"]
    assert end["dependencies"] == {"a": ["b"]}


def test_a_failed_job_stops_its_descendants_only(flow: Callable[..., Flow], node: PretendNode) -> None:
    made = flow(job("bad"), job("child"), job("grandchild"), job("other"),
                dependencies={"bad": ["child"], "child": ["grandchild"]})  # fmt: skip
    bad, other = taken(node, 2)
    assert (bad.assignment["name"], other.assignment["name"]) == ("flow/bad", "flow/other")
    bad.run(exit_code=1)
    soon(lambda: made.jobs()["flow/grandchild"]["status"] == "failed")
    child = made.jobs()["flow/child"]
    assert child["statusReason"] == "Job was not started: a job that it depends on failed"
    assert made.status() == ("running", progress(4, failed=1, queued=1, waiting=2))
    assert made.outcome()["pending"]
    other.run()
    end = made.ended()
    assert (end["status"], end["progress"]) == ("failed", progress(4, done=1, failed=1, waiting=2))
    assert end["statusReason"] == "1 of 4 jobs failed: bad"
    assert made.outcome() == {"success": False, "pending": False, "reason": "1 of 4 jobs failed: bad"}


def test_a_sweep_and_what_gathers_it(flow: Callable[..., Flow], node: PretendNode) -> None:
    process = job("process", cmd="work $id ${id}th $other")
    process["tasks"][0]["env"] = {"ID": "$id"}
    made = flow(process, job("merge"), factories=[sweep("process", "id", 3)], dependencies={"process": ["merge"]})
    for index, runner in enumerate(taken(node, 3)):
        given = runner.assignment
        value = str(index + 1)
        assert given["name"] == f"flow/process/{index}"
        assert given["tasks"][0]["argv"] == ["work", value, f"{value}th", "$other"]
        assert given["tasks"][0]["env"] == {"ID": value}
        assert given["env"]["PROMINENCE_PARAMETER_id"] == value
        assert made.begin_share("process", index) == 3
        assert made.share("process", index, 3) == {"total": 1, "done": 0, "failed": 0, "running": 1}
        runner.run()
        assert made.share("process", index, 3) == {"total": 1, "done": 1, "failed": 0, "running": 0}
    assert made.jobs()["flow/process/2"]["parameters"] == {"id": 3}
    made.begin("merge")
    one(node).run()
    assert made.ended()["progress"] == progress(4, done=4)
    # One of a factory's by its number, the first where none is given.
    for path in ("process/1", "process", "merge"):
        assert made.user.get(f"/workflows/{made.id}/{path}/stdout").status_code == 200
    for path in ("process/3", "nobody", "merge/0"):
        answer = made.user.get(f"/workflows/{made.id}/{path}/stdout")
        assert (answer.status_code, answer.json()) == (400, {"error": "stdout does not exist"})


def test_output_by_name_even_as_the_client_swaps_it(flow: Callable[..., Flow], node: PretendNode) -> None:
    made = flow(job("say"))
    runner = one(node)
    runner.write("stdout", 0, b"out")
    runner.write("stderr", 0, b"err")
    runner.run()
    assert made.user.get(f"/workflows/{made.id}/say/stdout?node=0&offset=1").text == "ut"
    assert made.user.get(f"/workflows/{made.id}/0/stderr?node=say").text == "err"


def test_retries_of_the_workflow_are_for_jobs_that_give_none(flow: Callable[..., Flow], node: PretendNode) -> None:
    made = flow(job("a"), job("b", policies={"maximumRetries": 1}), policies={"maximumRetries": 2})
    found = made.jobs()
    assert found["flow/a"]["policies"] == {"maximumRetries": 2}
    assert found["flow/b"]["policies"] == {"maximumRetries": 1}
    for runner in taken(node, 2):
        runner.run(exit_code=1)
    for runner in taken(node, 2):
        runner.run(exit_code=1)
    one(node).run(exit_code=1)
    assert made.ended()["progress"] == progress(2, failed=2)


def test_delete_ends_all_jobs(flow: Callable[..., Flow], node: PretendNode, bob: User) -> None:
    made = flow(job("a"), job("b"), job("s"), factories=[repeat("s", 20)], dependencies={"a": ["b"]})
    runner, *_ = taken(node, 4)
    runner.report("running")
    answer = bob.delete(f"/workflows/{made.id}")
    assert (answer.status_code, answer.json()) == (400, {"error": "No such workflow(s)"})
    assert made.user.delete(f"/workflows/{made.id}").json() == {}
    end = made.describe()
    assert (end["status"], end["statusReason"]) == ("deleted", "Workflow deleted by user")
    assert {found["status"] for found in made.jobs().values()} == {"deleted"}
    assert {found["statusReason"] for found in made.jobs().values()} == {
        "Job part of a workflow which was deleted by user"
    }
    assert runner.lease in [order["lease"] for order in node.poll()["stop"]]
    assert made.user.delete(f"/workflows/{made.id}").status_code == 400
    assert not made.outcome()["success"]


def test_rerun_keeps_what_is_done_under_a_new_id(
    flow: Callable[..., Flow], node: PretendNode, driver: Driver, alice: User
) -> None:
    made = flow(job("good"), job("flaky"), job("after"), dependencies={"flaky": ["after"]})
    good, flaky = taken(node, 2)
    good.write("stdout", 0, b"kept output")
    good.run()
    flaky.run(exit_code=1)
    old = made.ended()
    answer = alice.put(f"/workflows/{made.id}")
    assert answer.status_code == 200
    again = Flow.__new__(Flow)
    again.id, again.user, again.driver = int(answer.json()["id"]), alice, driver
    again.dag_id, again.run_id = f"workflow-{again.id}.flow", f"workflow-{again.id}"
    assert again.status()[1] == progress(3, done=1, queued=1, waiting=1)
    assert alice.get(f"/workflows/{again.id}/good/stdout").text == "kept output"
    assert again.jobs()["flow/good"]["status"] == "completed"
    one(node).run()
    again.begin("after")
    one(node).run(exit_code=3)
    assert again.ended()["progress"] == progress(3, done=2, failed=1)
    # A rerun can be rerun, and what was kept stays kept.
    third = int(alice.put(f"/workflows/{again.id}").json()["id"])
    assert alice.get(f"/workflows/{third}/good/stdout").text == "kept output"
    [shown] = alice.get(f"/workflows/{third}").json()
    assert shown["progress"] == progress(3, done=2, queued=1)
    assert made.describe() == old


def test_what_cannot_be_rerun(flow: Callable[..., Flow], node: PretendNode, bob: User) -> None:
    made = flow(job("a"))
    answer = made.user.put(f"/workflows/{made.id}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Workflow has not finished yet"})
    one(node).run()
    made.ended()
    answer = made.user.put(f"/workflows/{made.id}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Workflow has no failed jobs to run again"})
    assert bob.put(f"/workflows/{made.id}").json() == {"error": "Workflow does not exist"}
    assert made.user.put("/workflows/x").json() == {"error": "Workflow does not exist"}


def test_clone_and_remove(flow: Callable[..., Flow], node: PretendNode) -> None:
    secret = {"username": "u", "token": "s3cr3t-t0ken"}
    jobs = [job("a"), job("b")]
    jobs[1]["tasks"][0]["imagePullCredential"] = secret
    made = flow(*jobs, policies={"leaveInQueue": True})
    assert "s3cr3t" not in made.user.get(f"/workflows/{made.id}").text
    answer = made.user.put(f"/workflows/{made.id}/clone")
    assert answer.status_code == 201
    assert answer.json()["id"] != made.id
    tokens = []
    for runner in taken(node, 4):
        tokens.append(runner.assignment["tasks"][0].get("credential"))
        runner.run()
    assert [given for given in tokens if given] == [secret, secret]
    made.ended()
    listed = [found["id"] for found in made.user.get("/workflows").json()]
    assert made.id in listed
    assert made.user.put(f"/workflows/{made.id}/remove").json() == {}
    assert made.id not in [found["id"] for found in made.user.get("/workflows").json()]
    answer = made.user.put(f"/workflows/{made.id}/remove")
    assert (answer.status_code, answer.json()) == (400, {"error": "Workflow is no longer in the queue"})


def test_what_the_client_prints_as_submitted_can_be_submitted(
    flow: Callable[..., Flow], node: PretendNode, alice: User
) -> None:
    """It leaves the reason of a failure in there."""
    made = flow(job("a"))
    one(node).run(exit_code=1)
    shown = made.ended()
    assert shown["statusReason"]
    document = {key: value for key, value in shown.items() if key not in ("id", "status", "events", "progress")}
    again = alice.post("/workflows", json=document)
    assert again.status_code == 201, again.text
    alice.delete(f"/workflows/{again.json()['id']}")
    single = document["jobs"][0] | {"statusReason": "Job was evicted"}
    answer = alice.post("/jobs", json=single)
    assert answer.status_code == 201, answer.text
    assert "statusReason" not in alice.describe(answer.json()["id"])
    alice.delete(f"/jobs/{answer.json()['id']}")
    answer = alice.post("/jobs", json=single | {"statusReason": 1})
    assert answer.json() == {"error": "statusReason: is not a known key"}


def test_lists(flow: Callable[..., Flow], node: PretendNode, alice: User, bob: User) -> None:
    done = flow(job("a"), labels={"run": "1"})
    one(node).run()
    done.ended()
    active = flow(job("a"), labels={"run": "2"})

    def ids(query: str = "", user: User = alice) -> list[int]:
        return [found["id"] for found in user.get(f"/workflows{query}").json()]

    assert ids() == [active.id]
    assert ids("?completed=true&num=1") == [done.id]
    assert ids("?all=true") == [done.id, active.id]
    assert ids("?all=true&constraint=run=1") == [done.id]
    assert ids("?all=true&constraint=RUN=1&constraint=run=2") == []
    assert ids("?all=true&name=flow&status=pending") == [active.id]
    assert ids("?all=true&name=other") == []
    assert ids(f"?id={done.id},{active.id}") == [done.id, active.id]
    assert ids("?all=true", bob) == []
    assert bob.get(f"/workflows/{active.id}").json() == []
    [summary] = alice.get("/workflows").json()
    assert set(summary) == {"id", "name", "status", "events", "progress"}
    assert "jobs" in alice.get("/workflows?detail=true").json()[0]
    # A job's own name is the one it has in its document.
    assert [found["name"] for found in alice.get("/jobs?name=a").json()] == ["flow/a"]
    assert len(alice.get(f"/jobs?id={active.id}&workflow=true&num=-1").json()) == 1
    assert alice.get(f"/jobs?id={done.id}&workflow=true&num=-1").json() == []
    assert len(alice.get(f"/jobs?id={done.id}&workflow=true&completed=true").json()) == 1
    active.user.delete(f"/workflows/{active.id}")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"jobs": []}, "jobs: must not be empty"),
        ({"jobs": [job("")]}, "jobs[0].name: is missing: each job of a workflow needs a name"),
        (
            {"jobs": [job("a")], "dependencies": {"a": ["b"]}},
            'dependencies.a[0]: is an unknown child: no job is named "b"',
        ),
        (
            {"jobs": [job("a", artifacts=[{"url": "no-such.tgz"}])]},
            "Artifact no-such.tgz does not exist",
        ),
        ({"jobs": [job("a")], "frm": 1}, "frm: is not a known key (did you mean form?)"),
    ],
)
def test_refusals_are_a_sentence_and_leave_nothing(alice: User, body: dict[str, Any], sentence: str) -> None:
    answer = alice.post("/workflows", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
    assert alice.get("/workflows?all=true").json() == []
    assert alice.get("/jobs?all=true").json() == []


def test_a_sweep_too_large_is_refused_before_it_is_made(alice: User) -> None:
    huge = sweep("a", "x", 10**9)
    started = time.process_time()
    answer = alice.post("/workflows", json={"jobs": [job("a")], "factories": [huge]})
    assert answer.status_code == 400
    assert "1000000000" in answer.json()["error"]
    assert time.process_time() - started < 5


def test_an_idempotency_key_makes_one_workflow(alice: User) -> None:
    body, headers = {"name": "once", "jobs": [job("a")]}, {"Idempotency-Key": uuid.uuid4().hex}
    first = alice.post("/workflows", json=body, headers=headers).json()
    assert alice.post("/workflows", json=body, headers=headers).json() == first
    answer = alice.post("/workflows", json={**body, "name": "other"}, headers=headers)
    assert answer.status_code == 409
    alice.delete(f"/workflows/{first['id']}")


def test_the_code_tab_shows_the_document_without_its_secrets(flow: Callable[..., Flow], database: sa.Engine) -> None:
    secretive = job("a")
    secretive["tasks"][0]["imagePullCredential"] = {"username": "u", "token": "s3cr3t-t0ken"}
    made = flow(secretive)
    with database.connect() as connection:
        query = sa.text("SELECT source_code FROM dag_code WHERE dag_id = :dag")
        code = connection.execute(query, {"dag": made.dag_id}).scalar_one()
    assert '"name": "flow"' in code
    assert "***" in code
    assert "s3cr3t" not in code
    made.user.delete(f"/workflows/{made.id}")


class Tasks:
    """A workflow's task instances, changed as Airflow changes them."""

    def __init__(self, database: sa.Engine, flow: Flow) -> None:
        self.database, self.flow = database, flow

    def set(self, task_id: str, index: int = -1, **values: Any) -> None:
        changed = ", ".join(f"{name} = :{name}" for name in values)
        where = "run_id = :run AND task_id = :task AND map_index = :index"
        with self.database.begin() as connection:
            done = connection.execute(
                sa.text(f"UPDATE task_instance SET {changed} WHERE {where}"),
                {**values, "run": self.flow.run_id, "task": task_id, "index": index},
            )
            assert done.rowcount == 1

    def clear(self, task_id: str, index: int = -1) -> None:
        self.set(task_id, index, id=uuid.uuid4(), state=None)


def test_clearing_a_group_tries_the_job_and_what_it_stopped_again(
    flow: Callable[..., Flow], node: PretendNode, database: sa.Engine
) -> None:
    made = flow(job("a"), job("b"), dependencies={"a": ["b"]})
    tasks = Tasks(database, made)
    made.begin("a")
    one(node).run(exit_code=1)
    made.ended()
    tasks.clear("a.run")
    assert made.begin("a")["attempt"] == 2
    assert made.status()[0] in ("pending", "running")
    one(node).run()
    tasks.clear("b.run")
    made.begin("b")
    one(node).run()
    end = made.ended()
    assert (end["status"], end["progress"]) == ("completed", progress(2, done=2))


def test_clearing_a_share_tries_again_what_failed_of_it(
    flow: Callable[..., Flow], big_node: PretendNode, database: sa.Engine
) -> None:
    node = big_node
    made = flow(job("s"), factories=[repeat("s", 42)])
    tasks = Tasks(database, made)
    assert made.begin_share("s", 0) == 40
    found = made.jobs()
    # Numbers 0 and 40 are of one share.
    last = found["flow/s/40"]["id"]
    for runner in taken(node, 42):
        runner.run(exit_code=int(runner.assignment["job"] == last))
    assert made.share("s", 0, 40) == {"total": 2, "done": 2, "failed": 1, "running": 0}
    assert made.ended()["status"] == "failed"
    tasks.clear("s", 0)
    made.begin_share("s", 0)
    made.begin_share("s", 0)
    runner = one(node)
    assert runner.assignment["job"] == last
    runner.run()
    assert made.ended()["progress"] == progress(42, done=42)


def test_marking_the_run_failed_deletes_the_workflow(
    flow: Callable[..., Flow], node: PretendNode, database: sa.Engine
) -> None:
    made = flow(job("a"), job("b"), dependencies={"a": ["b"]})
    tasks = Tasks(database, made)
    made.begin("a")
    runner = one(node)
    runner.report("running")
    for task, state in (
        ("a.provision", "success"),
        ("a.run", "failed"),
        ("b.provision", "skipped"),
        ("b.run", "skipped"),
    ):
        tasks.set(task, state=state)
    assert made.outcome()["success"] is False
    assert made.describe()["status"] == "deleted"
    assert runner.lease in [order["lease"] for order in node.poll()["stop"]]


def test_a_task_of_a_share_ended_by_hand_ends_its_jobs(
    flow: Callable[..., Flow], node: PretendNode, driver: Driver, database: sa.Engine
) -> None:
    made = flow(job("s"), factories=[repeat("s", 2)])
    made.begin_share("s", 1)
    tasks, ti = Tasks(database, made), uuid.uuid4()
    tasks.set("s", 1, id=ti, state="deferred", try_number=1)
    where = {"dag_id": made.dag_id, "run_id": made.run_id, "task_id": "s", "map_index": 1, "chunks": 2}
    body = {"share": where, "ti_id": str(ti), "try_number": 1}
    assert driver.post("/tis/cancelled", body).json() == {"acted": False}
    tasks.set("s", 1, state="failed")
    assert driver.post("/tis/cancelled", {**body, "try_number": 2}).json() == {"acted": False}
    assert driver.post("/tis/cancelled", body).json() == {"acted": True}
    statuses = {name: found["status"] for name, found in made.jobs().items()}
    assert statuses["flow/s/1"] == "deleted"
    assert statuses["flow/s/0"] != "deleted"
    made.user.delete(f"/workflows/{made.id}")


def test_a_run_of_its_dag_is_a_clone_of_who_pressed(
    flow: Callable[..., Flow], node: PretendNode, driver: Driver, bob: User
) -> None:
    made = flow(job("a"), job("s"), factories=[repeat("s", 2)])
    made.user.delete(f"/workflows/{made.id}")
    from airflow_prominence.api.database import transact
    from airflow_prominence.dags.submit import submit_run

    run_id = "manual__1"
    transact(lambda session: submit_run(session, dag_id=made.dag_id, run_id=run_id, conf={}, owner=bob.name))
    answer = driver.post(f"/runs/{made.dag_id}/{run_id}/job", {"group": "a"})
    assert answer.status_code == 200, answer.text
    [clone] = bob.get("/workflows").json()
    assert clone["progress"]["total"] == 3
    assert (
        driver.post(f"/runs/{made.dag_id}/{run_id}/job", {"group": "a"}).json()["job"]["id"]
        == (answer.json()["job"]["id"])
    )
    bob.delete(f"/workflows/{clone['id']}")
    assert driver.post(f"/runs/{made.dag_id}/nonsense/job", {"group": "a"}).status_code == 400


def launched(run_id: str, user: User, document: Any) -> None:
    """A run of the shared DAG, as the UI's form makes one."""
    from airflow_prominence.api.database import transact
    from airflow_prominence.dags.submit import submit_run

    conf = {"workflow": document}
    transact(lambda s: submit_run(s, dag_id="prominence_workflow", run_id=run_id, conf=conf, owner=user.name))


def test_a_document_in_the_form_becomes_a_workflow_of_who_pressed(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    run_id = f"manual__{uuid.uuid4().hex}"
    launched(run_id, alice, {"name": "typed", "jobs": [job("a")]})
    path = f"/runs/prominence_workflow/{run_id}/workflow"
    first = driver.post(path).json()["workflow"]
    assert driver.post(path).json()["workflow"] == first
    assert (first["dag_id"], first["ended"]) == (f"workflow-{first['id']}.typed", False)
    [found] = alice.get("/workflows").json()
    assert found["id"] == first["id"]
    one(node).run()
    soon(lambda: driver.post(path).json()["workflow"]["ended"])
    assert driver.post(path).json()["workflow"]["status"] == "completed"
    # Its task ended by hand while the workflow is active would delete it; one that is over stays as it is.
    with database.connect() as connection:
        query = sa.text("SELECT id FROM task_instance WHERE run_id = :run")
        ti = str(connection.execute(query, {"run": run_id}).scalar_one())
    body = {"workflow": first["id"], "ti_id": ti, "try_number": 0}
    assert driver.post("/tis/cancelled", body).json() == {"acted": False}


def test_ending_the_task_of_the_form_deletes_its_workflow(alice: User, driver: Driver, database: sa.Engine) -> None:
    run_id = f"manual__{uuid.uuid4().hex}"
    launched(run_id, alice, {"jobs": [job("a", resources={"cpus": 1000, "memory": 1, "disk": 1})]})
    made = driver.post(f"/runs/prominence_workflow/{run_id}/workflow").json()["workflow"]
    ti = uuid.uuid4()
    with database.begin() as connection:
        change = sa.text("UPDATE task_instance SET id = :ti, state = 'failed', try_number = 1 WHERE run_id = :run")
        connection.execute(change, {"ti": ti, "run": run_id})
    body = {"workflow": made["id"], "ti_id": str(ti), "try_number": 1}
    assert driver.post("/tis/cancelled", body).json() == {"acted": True}
    assert alice.get(f"/workflows/{made['id']}").json()[0]["status"] == "deleted"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (None, "workflow: is missing; give the workflow's document in the trigger form"),
        ({"jobs": [{}]}, "workflow.jobs[0].resources: is missing"),
        ([], "workflow: the workflow must be an object, not a list"),
    ],
)
def test_a_bad_document_in_the_form_is_a_sentence(alice: User, driver: Driver, document: Any, sentence: str) -> None:
    run_id = f"manual__{uuid.uuid4().hex}"
    launched(run_id, alice, document)
    answer = driver.post(f"/runs/prominence_workflow/{run_id}/workflow")
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
    assert alice.get("/workflows?all=true").json() == []


def test_a_paused_dag_starts_no_more_jobs_and_stops_none(
    flow: Callable[..., Flow], node: PretendNode, database: sa.Engine
) -> None:
    made = flow(job("a"), job("b"), dependencies={"a": ["b"]})
    first = one(node)

    def pause(paused: bool) -> None:
        with database.begin() as connection:
            change = sa.text("UPDATE dag SET is_paused = :paused WHERE dag_id = :dag")
            connection.execute(change, {"paused": paused, "dag": made.dag_id})

    pause(True)
    first.run()
    assert made.begin("b")["phase"] == "queued"
    assert node.poll()["start"] == []
    assert made.status()[1] == progress(2, done=1, queued=1)
    pause(False)
    assert made.begin("b")["phase"] == "ready"
    one(node).run()
    assert made.ended()["status"] == "completed"
