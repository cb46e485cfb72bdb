"""Secrets stay where they are needed: each gets a text of its own, which is then searched for everywhere.

A new secret field of documents is a line in ``FIELDS``; another kind of secret is an entry of ``planted``.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_prominence.documents.secrets import CREDENTIAL_SECRETS, HIDDEN, STORAGE_SECRETS, extract
from tests.integration.airflows import DAG, Airflow
from tests.integration.manual.images import config_of_private, make_private_layer
from tests.integration.stacks import Stack, until
from tests.integration.traces import ProcessWatch, in_database, in_files
from tests.runtimes.registry import Registry
from tests.smtpserver import MailServer

Document = dict[str, Any]

#: Every secret field of a document, with the rest of what has it: ``{…}`` is the text planted there.
FIELDS: dict[str, Callable[[str], Document]] = {
    "imagePullCredential.username": lambda text: _credential(username=text),
    "imagePullCredential.token": lambda text: _credential(token=text),
    "webdav.username": lambda text: _storage("webdav", url="http://127.0.0.1:9/", username=text, password="p"),
    "webdav.password": lambda text: _storage("webdav", url="http://127.0.0.1:9/", username="u", password=text),
    "b2drop.app-username": lambda text: _storage("b2drop", **{"app-username": text, "app-password": "p"}),
    "b2drop.app-password": lambda text: _storage("b2drop", **{"app-username": "u", "app-password": text}),
    "onedata.token": lambda text: _storage("onedata", provider="127.0.0.1", token=text),
}

_REGISTRY = "institute_registry"

#: Bearers that some JSON Web Token of ours or Airflow's would be: header, claims, signature.
_TOKEN = re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}")


def _credential(**values: str) -> Document:
    return {"tasks": [{"imagePullCredential": {"username": "u", "token": "t", **values}}]}


def _storage(kind: str, **values: str) -> Document:
    return {"storage": {"type": kind, "mountpoint": "/data", kind: values}}


def _text(what: str) -> str:
    return f"planted-{re.sub('[^a-z]', '-', what.lower())}-{uuid.uuid4().hex}"


@dataclass
class Planted:
    """The texts by what they are, and what the stack said to those who brought them."""

    texts: dict[str, str] = field(default_factory=dict)
    control: str = field(default_factory=lambda: _text("control"))
    answers: list[str] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    watch: ProcessWatch = field(default_factory=ProcessWatch)

    def text(self, what: str) -> str:
        return self.texts.setdefault(what, _text(what))


def _document(stack: Stack, planted: Planted, **changes: Any) -> Document:
    document: Document = {
        # In the open, so that a search which finds it nowhere is known to be blind.
        "name": planted.control,
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": f"sh -c 'sleep 2; : {planted.control}'"}],
    }
    changes = copy.deepcopy(changes)
    for task in changes.pop("tasks", ()):
        document["tasks"][0].update(task)
    return {**document, **changes}


def _bad(planted: Planted, what: str) -> str:
    return planted.text(f"refused: {what}")


def _refused(planted: Planted) -> dict[str, Document | str]:
    """Bodies that are refused, with a secret where the refusal could repeat it."""
    right = {"username": _bad(planted, "user"), "token": _bad(planted, "token")}
    return {
        "unknown key beside it": _credential(**right, tokken=_bad(planted, "mistyped")),
        "not a text": {"tasks": [{"imagePullCredential": {"username": "u", "token": [_bad(planted, "in a list")]}}]},
        "too long": _credential(token=_bad(planted, "long") * 1000),
        "another field is wrong": {**_credential(token=_bad(planted, "beside")), "resources": {"cpus": -1}},
        "no JSON": '{"tasks": [{"imagePullCredential": {"token": "' + _bad(planted, "no JSON") + '"',
        "storage of an unknown type": {"storage": {"type": "ftp", "ftp": {"password": _bad(planted, "ftp")}}},
    }


@pytest.fixture(scope="module")
def planted(stack: Stack, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """Plant all, let everything happen that could carry it away, and wait until the jobs are forgotten on the node."""
    planted = Planted()
    planted.texts["node token"] = (stack.places.node / "token").read_text().strip()
    planted.texts["Airflow token"] = airflow.http.headers["Authorization"].partition(" ")[2]
    name = f"anna-{uuid.uuid4().hex[:6]}"
    made = stack.run_airflow("prominence", "token", name, "--email", f"{name}@example.org")
    assert made.code == 0, made
    planted.texts["user token"] = made.stdout.strip()
    credential = (planted.text("registry user"), planted.text("registry token"))
    registry = Registry(credential=credential)
    registry.push("private/image:1", config_of_private(), [make_private_layer()])
    ours = Registry(credential=("robot", planted.text("connection password")), bearer=False)
    ours.push("institute/image:1", config_of_private(), [make_private_layer()])
    mail = MailServer(tmp_path_factory.mktemp("letters"), "login")
    try:
        with (
            planted.watch.watching(),
            _connection(airflow, _mail(mail, planted.text("mail password"))),
            _connection(airflow, _registry(ours, name, planted.text("connection password"))),
        ):
            mail.start()
            _pull_by_connection(stack, planted, f"{ours.host}/institute/image:1")
            _play(stack, airflow, planted, f"{registry.host}/private/image:1", credential)
        yield planted
    finally:
        mail.stop()
        registry.close()
        ours.close()


def _mail(server: MailServer, password: str) -> Document:
    """An Airflow connection with a password that the mail server will not like, so that it has something to say."""
    return {
        "connection_id": "smtp_default",
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": server.port,
        "login": "post",
        "password": password,
        "extra": json.dumps({"disable_ssl": True, "disable_tls": True, "timeout": 5}),
    }


def _registry(server: Registry, user: str, password: str) -> Document:
    """One with the password of a registry, for the jobs of one user."""
    host, _, port = server.host.partition(":")
    return {
        "connection_id": _REGISTRY,
        "conn_type": "docker",
        "host": host,
        "port": int(port),
        "login": "robot",
        "password": password,
        "extra": json.dumps({"prominence_users": [user]}),
    }


@contextlib.contextmanager
def _connection(airflow: Airflow, connection: Document) -> Iterator[None]:
    assert airflow.http.post("/api/v2/connections", json=connection).status_code == 201
    try:
        yield
    finally:
        airflow.http.delete(f"/api/v2/connections/{connection['connection_id']}").raise_for_status()


def _pull_by_connection(stack: Stack, planted: Planted, image: str) -> None:
    """A job that names the connection, and nothing of what is in it."""
    document = _document(stack, planted, tasks=[{"image": image, "imagePullCredential": _REGISTRY}])
    with stack.client(planted.texts["user token"]) as client:
        answer = client.post("/jobs", json=document)
        planted.answers.append(answer.text)
        assert answer.status_code == 201, answer.text
        job = int(answer.json()["id"])
        described = _ended(client, job)
        planted.answers.append(json.dumps(described))
    assert (described["status"], described["execution"]["tasks"][0]["imagePullStatus"]) == ("completed", "completed")


def _play(stack: Stack, airflow: Airflow, planted: Planted, image: str, credential: tuple[str, str]) -> None:
    with stack.client(planted.texts["user token"]) as client:

        def submit(document: Document | str) -> int | None:
            text = document if isinstance(document, str) else json.dumps(document)
            answer = client.post("/jobs", content=text)
            planted.answers.append(answer.text)
            if answer.status_code != 201:
                assert answer.status_code == 400, answer.text
                return None
            planted.jobs.append(int(answer.json()["id"]))
            return planted.jobs[-1]

        # One that pulls its image with the secret and is told of in a letter, and the same once more.
        pulled = {"username": credential[0], "token": credential[1]}
        task = {"image": image, "imagePullCredential": pulled}
        asks = [{"event": "jobFinished", "type": "email"}]
        first = submit(_document(stack, planted, tasks=[task], notifications=asks))
        assert first is not None
        _read_assignment(stack, planted, first)
        assert _ended(client, first)["status"] == "completed", client.get(f"/jobs/{first}").text
        answer = client.put(f"/jobs/{first}/clone")
        planted.jobs.append(int(answer.json()["id"]))
        # One whose credential the registry refuses, and one job for each secret field there is.
        wrong = {"username": planted.text("wrong user"), "token": planted.text("wrong token")}
        submit(_document(stack, planted, tasks=[{"image": image, "imagePullCredential": wrong}]))
        for what, make in FIELDS.items():
            submit(_document(stack, planted, **make(planted.text(what))))
        for body in _refused(planted).values():
            assert submit(body if isinstance(body, str) else _document(stack, planted, **body)) is None
        # Airflow keeps a run's conf as it is: what has secrets is refused before there is a run.
        conf = _document(stack, planted, **_credential(token=planted.text("token in conf")))
        answer = airflow.http.post(f"{DAG}/dagRuns", json={"logical_date": None, "conf": {"job": conf}})
        assert answer.status_code == 400, answer.text
        for bearer in (planted.text("no token at all"), f"eyJhbGciOiJIUzI1NiJ9.e30.{planted.text('forged token')}"):
            with stack.client(bearer) as nobody:
                refused = nobody.get("/jobs")
            assert refused.status_code == 401
            planted.answers.append(refused.text)
        for job in planted.jobs:
            _ended(client, job)
        tried = "SELECT 1 FROM prominence_mail WHERE job_id = %s AND error <> ''"
        until(lambda: stack.psql(tried, first), 30, what="the mail server has refused the password")
        for path in ("/jobs?all=true&detail=true", "/jobs?all=true", *(f"/jobs/{job}" for job in planted.jobs)):
            planted.answers.append(client.get(path).text)
    for job in planted.jobs:
        run = airflow.run_of(job)
        airflow.ended(run)
        planted.answers.append(json.dumps(airflow.run(run)))
    leases = stack.places.node / "leases"
    # other tests' jobs may have outputs, which are kept for a while
    until(lambda: not [*_forgotten_late(leases)], 60, what="the node has forgotten the jobs")


def _forgotten_late(leases: Path) -> Iterator[Path]:
    """Leases of which the node still has a record though it keeps nothing of them."""
    yield from (record for record in leases.iterdir() if not (record / "kept").exists())


def _ended(client: httpx.Client, job: int) -> dict[str, Any]:
    def ask() -> dict[str, Any] | None:
        [described] = client.get(f"/jobs/{job}").json()
        return described if described["status"] in ("completed", "failed", "killed", "deleted") else None

    found = until(ask, 120, 0.3, f"job {job} ends")
    assert found is not None
    return found


def _read_assignment(stack: Stack, planted: Planted, job: int) -> None:
    """Take the job's and its runner's token from the node's own record, the one place where they may be."""

    def held() -> dict[str, Any] | None:
        for path in (stack.places.node / "leases").glob("*/assignment.json"):
            assignment: dict[str, Any] = json.loads(path.read_text())
            # a lease that has ended keeps nothing of it
            if assignment.get("job") == job:
                return assignment
        return None

    assignment = until(held, 60, 0.05, "the node has the assignment")
    assert assignment is not None
    planted.texts["runner's token"], planted.texts["job's token"] = assignment["token"], assignment["job_token"]


def test_the_table_has_every_secret_field() -> None:
    named = set()
    for make in FIELDS.values():
        for path in extract({"tasks": [], **make("x")})[1]:
            named.add(path.rpartition(".")[2])
    assert named == {*STORAGE_SECRETS, *CREDENTIAL_SECRETS}
    for what, make in FIELDS.items():
        secrets = extract(make("planted"))[1]
        assert [path.endswith(what) for path, value in secrets.items() if value == "planted"] == [True], what


def test_no_table_holds_a_secret(stack: Stack, planted: Planted) -> None:
    found = in_database(stack, {**planted.texts, "control": planted.control})
    tables = {table for what, table in found if what == "control"}
    assert {"prominence_job", "dag_run", "task_instance"} <= tables, "the search is not blind"
    assert sorted(found - {("control", table) for table in tables}) == []


def test_no_table_holds_a_bearer(stack: Stack, planted: Planted) -> None:
    tables = stack.psql(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
    )
    for schema, table in tables:
        if schema in ("pg_catalog", "information_schema"):
            continue
        query = f'SELECT count(*) FROM "{schema}"."{table}" AS t WHERE t::text ~ %s'
        assert stack.psql(query, r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}") == [(0,)], table


def test_no_file_holds_a_secret(stack: Stack, planted: Planted) -> None:
    """Logs of all parts, logs of tasks, what the node keeps, and PostgreSQL's own files with what was deleted."""
    places = stack.places
    # Those whose place it is.
    but = [places.secrets, places.env_file, places.node / "token"]
    found = in_files({places.home, places.shared}, {**planted.texts, "control": planted.control}, but)
    control = {path for what, path in found if what == "control"}
    assert any(places.airflow_home / "logs" in path.parents for path in control), "the search is not blind"
    assert any(places.database in path.parents for path in control), "nor in PostgreSQL's files"
    assert sorted(found - {("control", path) for path in control}) == []


def test_no_log_holds_a_bearer(stack: Stack, planted: Planted) -> None:
    folders = (stack.places.logs, stack.places.airflow_home)
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        assert not _TOKEN.search(path.read_bytes()), path


def test_no_command_line_held_a_secret(planted: Planted) -> None:
    assert planted.watch.rounds > 100
    assert planted.watch.found({"control": planted.control}) == {"control"}, "the watch is not blind"
    assert planted.watch.found(planted.texts) == set()


def test_no_answer_repeats_a_secret(planted: Planted) -> None:
    said = "\n".join(planted.answers)
    assert planted.control in said
    assert {what for what, text in planted.texts.items() if text in said} == set()
    assert said.count(f'"token":"{HIDDEN}"') >= 4, said


def test_the_real_client_shows_stars(stack: Stack, planted: Planted, tmp_path: Path) -> None:
    for options in ((), ("-i",)):
        done = stack.run_cli(
            "describe", *options, str(planted.jobs[0]), token=planted.texts["user token"], cwd=tmp_path
        )
        [task] = json.loads(done.stdout)["tasks"]
        assert task["imagePullCredential"] == {"username": HIDDEN, "token": HIDDEN}, done


def test_what_is_kept_is_encrypted(stack: Stack, planted: Planted) -> None:
    """Not by the secrets' absence alone: they are there, for the clone could pull its image."""
    rows = stack.psql("SELECT path, ciphertext FROM prominence_secret WHERE job_id = %s", planted.jobs[0])
    assert [path for path, _ in sorted(rows)] == [
        f"tasks[0].imagePullCredential.{key}" for key in ("token", "username")
    ]
    assert all(bytes(kept).startswith(b"gAAAAA") for _, kept in rows)
    assert stack.describe(planted.jobs[1], planted.texts["user token"])["status"] == "completed"
