"""``exec`` and ``snapshot`` as the contract says them (``prominence.md`` 1.1), and what nobody must get by them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import BASE, Driver, PretendNode, PretendRunner
from tests.api.test_life import soon, started

NOT_RUNNING = (400, {"error": "Job is not running"})
NO_JOB = (400, {"error": "Job does not exist"})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as made:
        yield made


@pytest.fixture
def running(alice: User, driver: Driver, node: PretendNode) -> tuple[int, PretendRunner]:
    job_id, runner = started(alice, driver, node)
    runner.report("running")
    return job_id, runner


@pytest.fixture
def run(alice: User, pool: ThreadPoolExecutor, running: tuple[int, PretendRunner]) -> Callable[..., Future[Any]]:
    """Ask for a command in the running job, without waiting for the answer."""

    def ask(command: str = "ls,-l", **more: Any) -> Future[Any]:
        return pool.submit(alice.post, f"/jobs/{running[0]}/exec", params={"command": command}, **more)

    return ask


@pytest.fixture
def snap(alice: User, pool: ThreadPoolExecutor, running: tuple[int, PretendRunner]) -> Callable[..., Future[Any]]:
    def ask(path: str) -> Future[Any]:
        return pool.submit(alice.put, f"/jobs/{running[0]}/snapshot", params={"path": path})

    return ask


def answer_of(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def rows(database: sa.Engine, query: str, **values: Any) -> list[Any]:
    with database.begin() as connection:
        result = connection.execute(sa.text(query), values)
        return list(result.all()) if result.returns_rows else []


def pieces_kept(database: sa.Engine, command_id: str) -> int:
    query = "SELECT count(*) FROM prominence_command_output WHERE command_id = :id"
    return int(rows(database, query, id=command_id)[0][0])


# -- exec


def test_a_command_goes_to_the_node_and_its_output_comes_back(
    run: Callable[..., Future[Any]], alice: User, node: PretendNode, running: Any, database: sa.Engine
) -> None:
    asked = run("sh,-c,echo  two words; echo err >&2")
    order = node.order()
    lease = running[1].lease
    assert order.given == {
        "id": order.id,
        "lease": lease,
        "kind": "exec",
        "argv": ["sh", "-c", "echo  two words; echo err >&2"],
        "timeout_s": 120,
        "limit": 16 << 20,
    }
    assert order.write(b"two words\n") is None
    assert order.write("é\n".encode() + b"\xff") is None
    order.end()
    answer = asked.result(10)
    assert (answer.status_code, answer.content) == (200, b"two words\n\xc3\xa9\n\xff")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert pieces_kept(database, order.id) == 0
    [shown] = alice.describe(running[0])["execution"]["commands"]
    assert shown["command"] == "sh -c 'echo  two words; echo err >&2'"
    assert abs(shown["time"] - time.time()) < 30
    assert node.poll()["commands"] == []


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("ls", ["ls"]),
        ("echo,a b,,$HOME", ["echo", "a b", "", "$HOME"]),
        ("echo,a\\,b,\\\\n", ["echo", "a,b", "\\\\n"]),
        ("echo,ü&=?%/#\n", ["echo", "ü&=?%/#\n"]),
    ],
)
def test_words_of_the_clients_wire(
    run: Callable[..., Future[Any]], node: PretendNode, command: str, argv: list[str]
) -> None:
    asked = run(command)
    order = node.order()
    assert order.given["argv"] == argv
    order.end()
    assert answer_text(asked) == (200, "")


def answer_text(asked: Future[Any]) -> tuple[int, str]:
    answer = asked.result(20)
    return answer.status_code, answer.text


def test_words_in_a_body_need_no_wire(alice: User, pool: ThreadPoolExecutor, node: PretendNode, running: Any) -> None:
    words = ["printf", "%s", "a,b\\,c", ""]
    asked = pool.submit(alice.post, f"/jobs/{running[0]}/exec", json={"command": words})
    order = node.order()
    assert order.given["argv"] == words
    order.end()
    assert answer_text(asked) == (200, "")


def test_a_command_that_fails_says_how(run: Callable[..., Future[Any]], node: PretendNode) -> None:
    asked = run("ls,nothing")
    order = node.order()
    order.write(b"first\nls: nothing: No such file\n")
    order.end(2)
    assert answer_of(asked.result(10)) == (
        400,
        {
            "error": "Unable to execute command: it ended with exit code 2: ls: nothing: No such file",
            "exit_code": 2,
            "output": "first\nls: nothing: No such file\n",
        },
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("it did not end within 120 s", "Unable to execute command: it did not end within 120 s"),
        ("Job is not running", "Job is not running"),
    ],
)
def test_what_the_node_says_of_a_command(
    run: Callable[..., Future[Any]], node: PretendNode, error: str, sentence: str
) -> None:
    asked = run()
    node.order().end(None, error)
    assert answer_of(asked.result(10)) == (400, {"error": sentence, "exit_code": None, "output": ""})


def test_a_long_command_is_answered_while_it_runs(run: Callable[..., Future[Any]], node: PretendNode) -> None:
    asked = run("tail,-f,x")
    order = node.order()
    for number in range(7):
        assert order.write(f"line {number}\n".encode()) is None
        time.sleep(0.5)
    order.write(b"no newline")
    order.end(3)
    lines = "".join(f"line {number}\n" for number in range(7))
    sentence = "Unable to execute command: it ended with exit code 3"
    assert answer_text(asked) == (200, f"{lines}no newline\n{sentence}\n")


def test_much_output_is_answered_whole(run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine) -> None:
    asked = run("cat,big")
    order = node.order()
    sent = b"".join(bytes([65 + number]) * 65536 for number in range(40))
    for start in range(0, len(sent), 65536):
        assert order.write(sent[start : start + 65536]) is None
    order.end()
    answer = asked.result(20)
    assert (answer.status_code, answer.content == sent) == (200, True)
    soon(lambda: pieces_kept(database, order.id) == 0)


def test_a_command_waits_for_a_node_that_polls_late(run: Callable[..., Future[Any]], node: PretendNode) -> None:
    asked = run()
    time.sleep(2)
    order = node.order()
    order.end()
    assert answer_text(asked) == (200, "")


def test_an_order_is_given_until_the_node_lists_it(run: Callable[..., Future[Any]], node: PretendNode) -> None:
    asked = run()
    order = node.order()
    node.orders.clear()
    assert node.poll()["commands"] == [order.given]
    node.orders.append(order.id)
    assert node.poll()["commands"] == []
    node.orders.clear()
    assert node.poll()["commands"] == []
    order.end()
    assert answer_text(asked) == (200, "")


def test_an_agent_that_knows_no_orders_gets_none(run: Callable[..., Future[Any]], node: PretendNode) -> None:
    asked = run()
    order = node.order()
    body = {"boot": node.boot, "leases": node.held, "timeout": 0}
    assert node.post(f"/nodes/{node.id}/poll", body).json()["commands"] == []
    order.end()
    asked.result(10)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, "A command to execute must be specified"),
        ({"params": {"command": ""}}, "A command to execute must be specified"),
        ({"params": {"command": ",x"}}, "A command to execute must be specified"),
        ({"json": {"command": []}}, "A command to execute must be specified"),
        ({"json": {"command": "ls"}}, "command: must be a list of words"),
        ({"json": {"command": ["ls", 1]}}, "command: must be a list of words"),
        ({"json": ["ls"]}, "The body must be a JSON object"),
        ({"json": {"command": ["ls", "\ud800"]}}, "command[1]: holds half of a surrogate pair, which is not text"),
        ({"params": {"command": "ls,a\0b"}}, "command: cannot hold a NUL character"),
        ({"json": {"command": ["ls", "x" * 65536]}}, "command: cannot be longer than 64 KB"),
    ],
)
def test_no_command(alice: User, running: Any, node: PretendNode, more: dict[str, Any], sentence: str) -> None:
    if "json" in more:
        more = {"content": json.dumps(more["json"]), "headers": {"Content-Type": "application/json"}}
    assert answer_of(alice.post(f"/jobs/{running[0]}/exec", **more)) == (400, {"error": sentence})
    assert node.poll()["commands"] == []


def test_no_command_in_a_job_that_does_not_run(alice: User, driver: Driver, node: PretendNode) -> None:
    params = {"command": "ls"}

    def ask(job_id: int) -> list[Any]:
        path = f"/jobs/{job_id}"
        return [
            answer_of(alice.post(f"{path}/exec", params=params)),
            answer_of(alice.put(f"{path}/snapshot", params={"path": "x"})),
            answer_of(alice.get(f"{path}/snapshot")),
        ]

    waiting = alice.submit(resources={"cpus": 64, "memory": 1, "disk": 1, "nodes": 1})
    assert ask(waiting) == [NOT_RUNNING] * 3
    job_id, runner = started(alice, driver, node)
    runner.report("stage_in")
    assert ask(job_id) == [NOT_RUNNING] * 3
    runner.report("running")
    alice.delete(f"/jobs/{job_id}")
    assert ask(job_id) == [NOT_RUNNING] * 3
    job_id, runner = started(alice, driver, node)
    runner.run()
    assert ask(job_id) == [NOT_RUNNING] * 3
    assert ask(10**12) == [NO_JOB] * 3
    assert answer_of(alice.post("/jobs/x/exec", params=params)) == NO_JOB


def test_the_jobs_end_is_the_commands(
    run: Callable[..., Future[Any]], alice: User, node: PretendNode, running: Any
) -> None:
    job_id, runner = running
    asked = run("sleep,100")
    order = node.order()
    assert order.write(b"so far\n") is None
    alice.delete(f"/jobs/{job_id}")
    assert order.write(b"more\n") == "Job is not running"
    runner.report("end", status="killed", reason="", node_success=False, execution={}, tail="")
    answer = asked.result(20)
    assert answer.status_code in (200, 400)
    assert "so far" in answer.text
    assert "Job is not running" in answer.text
    assert "more" not in answer.text


def test_only_so_many_commands_at_a_time(
    run: Callable[..., Future[Any]], alice: User, node: PretendNode, running: Any
) -> None:
    asked = [run() for _ in range(8)]
    given: dict[str, Any] = {}

    def all_given() -> bool:
        given.update({order["id"]: order for order in node.poll()["commands"]})
        return len(given) == 8

    soon(all_given)
    sentence = "8 commands and snapshots of this job are under way already"
    assert answer_of(alice.post(f"/jobs/{running[0]}/exec?command=ls")) == (429, {"error": sentence})
    for name in given:
        assert node.post(f"/commands/{name}/end", {"exit_code": 0, "error": None}).status_code == 200
    assert [answer_text(one) for one in asked] == [(200, "")] * 8
    again = run()
    node.order().end()
    assert answer_text(again) == (200, "")


def test_a_command_that_nobody_waits_for_is_stopped(
    run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine
) -> None:
    asked = run()
    order = node.order()
    order.write(b"x")
    # As by the death of the server that held the request.
    rows(database, "UPDATE prominence_command SET state = 'new', deadline = 1 WHERE id = :id", id=order.id)
    node.orders.clear()
    assert order.write(b"") in ("nobody waits for it any more", None)
    rows(database, "UPDATE prominence_command SET deadline = 1 WHERE id = :id", id=order.id)
    assert node.poll()["commands"] == []
    order.end()
    asked.result(20)


def test_what_was_never_fetched_is_forgotten(
    run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine
) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import commands

    asked = run()
    order = node.order()
    order.end()
    asked.result(10)
    put = "INSERT INTO prominence_command_output (command_id, \"offset\", data) VALUES (:id, 0, 'x')"
    rows(database, put, id=order.id)
    transact(lambda session: commands.forget_old(session, time.time()))
    assert pieces_kept(database, order.id) == 0
    lost = rows(
        database,
        "UPDATE prominence_command SET state = 'started', created_at = 1, deadline = 1 WHERE id = :id RETURNING id",
        id=order.id,
    )
    assert lost
    transact(lambda session: commands.forget_old(session, time.time()))
    [(state, result)] = rows(database, "SELECT state, result FROM prominence_command WHERE id = :id", id=order.id)
    assert (state, result["error"]) == ("ended", "nobody waits for it any more")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("created_at = created_at - 31", "Unable to execute command: the job's node does not answer"),
        ("state = 'started', created_at = created_at - 151", "Unable to execute command: it did not end within 120 s"),
    ],
)
def test_a_silent_node_is_not_waited_for_long(
    run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine, change: str, sentence: str
) -> None:
    asked = run()
    order = node.order()
    rows(database, f"UPDATE prominence_command SET {change} WHERE id = :id", id=order.id)
    assert answer_of(asked.result(10))[1]["error"] == sentence
    assert order.write(b"late") == "it is over"


# -- what nobody must get


def test_a_job_is_its_owners(alice: User, bob: User, node: PretendNode, running: Any) -> None:
    path = f"/jobs/{running[0]}"
    assert answer_of(bob.post(f"{path}/exec", params={"command": "ls"})) == NO_JOB
    assert answer_of(bob.put(f"{path}/snapshot", params={"path": "x"})) == NO_JOB
    assert answer_of(bob.get(f"{path}/snapshot")) == NO_JOB
    assert node.poll()["commands"] == []


def test_a_jobs_token_opens_no_job(http: Any, alice: User, running: Any) -> None:
    itself = User(http, alice.name, running[1].assignment["job_token"])
    path = f"/jobs/{running[0]}"
    assert itself.post(f"{path}/exec", params={"command": "ls"}).status_code == 403
    assert itself.put(f"{path}/snapshot", params={"path": "x"}).status_code == 403
    assert itself.get(f"{path}/snapshot").status_code == 403


def test_a_command_is_its_nodes(
    http: Any, alice: User, run: Callable[..., Future[Any]], node: PretendNode, running: Any
) -> None:
    asked = run()
    order = node.order()
    other = PretendNode(http)
    none = (404, {"error": "There is no such command for this node"})
    end = {"exit_code": 0, "error": None}
    assert answer_of(other.put(f"/commands/{order.id}/output?offset=0", b"x")) == none
    assert answer_of(other.post(f"/commands/{order.id}/end", end)) == none
    assert answer_of(node.put("/commands/unknown/output?offset=0", b"x")) == none
    for token in (alice.bearer, running[1].assignment["token"], running[1].assignment["job_token"]):
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{BASE}/commands/{order.id}"
        assert http.put(f"{path}/output?offset=0", content=b"x", headers=headers).status_code in (401, 403)
        assert http.post(f"{path}/end", json=end, headers=headers).status_code in (401, 403)
    order.write(b"mine")
    order.end()
    assert answer_text(asked) == (200, "mine")
    other.gone()


def test_a_stale_lease_says_nothing(
    run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine, running: Any
) -> None:
    asked = run()
    order = node.order()
    rows(database, "UPDATE prominence_lease SET state = 'ended', ended_at = 1 WHERE id = :id", id=running[1].lease)
    assert order.write(b"from the grave") in ("Job is not running", "it is over")
    answer = asked.result(20)
    assert (answer.status_code, answer.json()["error"]) == (400, "Job is not running")
    order.end()
    [(result,)] = rows(database, "SELECT result FROM prominence_command WHERE id = :id", id=order.id)
    assert result["error"] == "Job is not running"
    rows(database, "UPDATE prominence_lease SET state = 'started' WHERE id = :id", id=running[1].lease)


def test_output_is_kept_once_in_order_and_up_to_a_limit(
    run: Callable[..., Future[Any]], node: PretendNode, database: sa.Engine
) -> None:
    asked = run()
    order = node.order()
    rows(
        database,
        """UPDATE prominence_command SET "order" = '{"argv": ["x"], "limit": 100000, "timeout_s": 120}'"""
        " WHERE id = :id",
        id=order.id,
    )
    path = f"/commands/{order.id}/output"
    assert node.put(f"{path}?offset=0", b"x" * 65537).status_code == 413
    assert node.put(f"{path}?offset=-1", b"x").status_code == 400
    assert order.write(b"abc") is None
    assert node.put(f"{path}?offset=0", b"again").json() == {"offset": 3, "stop": None}
    assert node.put(f"{path}?offset=9", b"early").json() == {"offset": 3, "stop": None}
    assert order.write(b"y" * 65536) is None
    assert order.write(b"z" * 65536) == "it wrote more than 0.0953674 MB"
    assert order.offset == 100_000
    assert order.write(b"z" * 65536) == "it wrote more than 0.0953674 MB"
    assert order.offset == 100_000
    order.end(None, "it wrote more than 0.0953674 MB")
    order.end(0)
    answer = asked.result(10)
    assert answer.status_code in (200, 400)
    assert "it wrote more than" in answer.text


@pytest.mark.parametrize(
    "body",
    [{}, {"exit_code": "0", "error": None}, {"exit_code": 1, "error": "both"}, {"exit_code": True, "error": None}],
)
def test_an_end_must_be_one(run: Callable[..., Future[Any]], node: PretendNode, body: dict[str, Any]) -> None:
    asked = run()
    order = node.order()
    assert node.post(f"/commands/{order.id}/end", body).status_code == 400
    order.end()
    assert answer_text(asked) == (200, "")


# -- snapshots


def test_a_snapshot_is_put_and_found(
    http: Any, snap: Callable[..., Future[Any]], alice: User, bob: User, node: PretendNode, running: Any
) -> None:
    path = f"/jobs/{running[0]}/snapshot"
    assert answer_of(alice.get(path)) == (400, {"error": "No snapshot of this job was created yet"})
    asked = snap("out/data")
    order = node.order()
    given = dict(order.given)
    url = urlsplit(given.pop("url"))
    assert given == {
        "id": order.id,
        "lease": running[1].lease,
        "kind": "snapshot",
        "path": "/home/user/out/data",
        "name": "out/data",
        "timeout_s": 1800,
        "limit": 8 << 20,
    }
    assert answer_of(alice.get(path)) == (400, {"error": "A snapshot is being created"})
    assert http.put(f"{url.path}?{url.query}", content=b"archive").status_code == 201
    order.end()
    assert answer_of(asked.result(10)) == (200, {})
    found = alice.get(path).json()
    assert list(found) == ["url"]
    where = urlsplit(found["url"])
    assert where.path.endswith("/snapshot.tgz")
    assert http.get(f"{where.path}?{where.query}").content == b"archive"
    assert http.put(f"{where.path}?{where.query}", content=b"x").status_code == 403
    assert http.get(where.path).status_code == 403
    assert answer_of(bob.get(path)) == NO_JOB


@pytest.mark.parametrize(
    ("path", "wanted", "name"),
    [
        ("x", "/home/user/x", "x"),
        (".", "/home/user/.", "."),
        ("a/../../user/b", "/home/user/a/../../user/b", "user/b"),
        ("../../etc/passwd", "/home/user/../../etc/passwd", "etc/passwd"),
        ("with space/ü,", "/home/user/with space/ü,", "with space/ü,"),
        ("/home/user/x/", "/home/user/x/", "home/user/x"),
        ("/tmp", "/tmp", "tmp"),
        ("/data/x", "/data/x", "data/x"),
    ],
)
def test_paths_of_snapshots(
    alice: User, driver: Driver, node: PretendNode, pool: ThreadPoolExecutor, path: str, wanted: str, name: str
) -> None:
    """The node takes the path step by step: what leads out of the job's folders is refused there."""
    artifact = {"url": "https://data.example.org/in.tgz", "mountpoint": "in:/data"}
    job_id, runner = started(alice, driver, node, artifacts=[artifact])
    runner.report("running")
    asked = pool.submit(alice.put, f"/jobs/{job_id}/snapshot", params={"path": path})
    order = node.order()
    assert (order.given["path"], order.given["name"]) == (wanted, name)
    order.end(None, f"{path}: leads out of the job's folders")
    assert answer_of(asked.result(10)) == (400, {"error": f"{path}: leads out of the job's folders"})
    assert answer_of(alice.get(f"/jobs/{job_id}/snapshot"))[0] == 400


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "A path to snapshot must be specified"),
        ({"path": ""}, "A path to snapshot must be specified"),
        ({"path": "/etc/passwd"}, "Invalid path"),
        ({"path": "/"}, "Invalid path"),
        ({"path": "/home/userx"}, "Invalid path"),
        ({"path": "/tmpx"}, "Invalid path"),
        ({"path": "a\0b"}, "Invalid path"),
        ({"path": "x" * 5000}, "Invalid path"),
    ],
)
def test_no_snapshot(alice: User, node: PretendNode, running: Any, params: dict[str, str], sentence: str) -> None:
    assert answer_of(alice.put(f"/jobs/{running[0]}/snapshot", params=params)) == (400, {"error": sentence})
    assert node.poll()["commands"] == []


def test_a_snapshot_that_takes_long_is_answered_meanwhile(
    snap: Callable[..., Future[Any]], alice: User, node: PretendNode, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_prominence.api.routes import live

    monkeypatch.setattr(live, "_QUIET_S", 1.5)
    for error in (None, "/home/user/x: no such file or directory"):
        asked = snap("x")
        order = node.order()
        for _ in range(4):
            time.sleep(1)
            assert order.write(b"") is None
        order.end(0 if error is None else None, error)
        answer = asked.result(10)
        assert answer.text.startswith(" ")
        assert answer_of(answer) == (200, {} if error is None else {"error": error})
        if error is not None:
            assert answer_of(alice.get(f"/jobs/{running[0]}/snapshot")) == (400, {"error": error})


def test_a_storage_that_is_away_holds_up_no_node(
    snap: Callable[..., Future[Any]],
    run: Callable[..., Future[Any]],
    node: PretendNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow_prominence.objects import StoreUnavailable, object_store

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("no route to it")

    monkeypatch.setattr(type(object_store()), "url_to_put", away)
    asked = snap("x")
    sentence = "The object storage does not answer at the moment, please try again"
    soon(lambda: node.poll()["commands"] == [] and asked.done())
    assert answer_of(asked.result(10)) == (400, {"error": sentence})
    another = run()
    node.order().end()
    assert answer_text(another) == (200, "")
