"""Letters about finished jobs, through a real SMTP server: contents, once each, whatever the server does."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import smtpserver
from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode
from tests.smtpserver import PASSWORD, MailServer

ASKED = [{"event": "jobFinished", "type": "email"}]
CONNECTION = "AIRFLOW_CONN_SMTP_DEFAULT"

Start = Callable[..., MailServer]


@pytest.fixture(autouse=True)
def empty_box(database: sa.Engine) -> Iterator[None]:
    """No letter of another test waits, before or after."""
    empty = sa.text("DELETE FROM prominence_mail")
    with database.begin() as connection:
        connection.execute(empty)
    yield
    with database.begin() as connection:
        connection.execute(empty)


@pytest.fixture(autouse=True)
def nobody_else_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served app has a sender of its own, which looks into the box whenever it likes: not in these tests."""
    from airflow_prominence.api import mailer

    real = mailer._claim

    async def claim() -> Any:
        return await real() if of_the_test.get() else None

    monkeypatch.setattr(mailer, "_claim", claim)


of_the_test: ContextVar[bool] = ContextVar("of_the_test", default=False)


def deliver() -> bool:
    """Be one of the senders, once."""
    from airflow_prominence.api import mailer

    of_the_test.set(True)
    return asyncio.run(mailer.deliver())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start mail servers, each of which becomes this deployment's one."""
    open_ones: list[AbstractContextManager[MailServer]] = []

    def start(behaviour: str = "well", port: int = 0, **extra: Any) -> MailServer:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        opened = smtpserver.running(folder, behaviour, port)
        started = opened.__enter__()
        open_ones.append(opened)
        monkeypatch.setenv(CONNECTION, started.connection(**extra))
        return started

    yield start
    for opened in open_ones:
        opened.__exit__(None, None, None)


@pytest.fixture
def anna(http: Any) -> User:
    """A user with an address."""
    return with_address(http, "anna@example.org")


def with_address(http: Any, address: str) -> User:
    from airflow_prominence.api import usertokens

    name = f"user-{uuid.uuid4().hex[:8]}"
    return User(http, name, usertokens.issue(name, email=address, days=1)[0])


def box(database: sa.Engine) -> list[dict[str, Any]]:
    with database.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM prominence_mail ORDER BY id")).mappings()
        return [dict(row) for row in rows]


def change(database: sa.Engine, assignments: str, **values: Any) -> None:
    with database.begin() as connection:
        connection.execute(sa.text(f"UPDATE prominence_mail SET {assignments}"), values)


def finish(user: User, driver: Driver, node: PretendNode, exit_code: int = 0, **changes: Any) -> int:
    job_id = user.submit(notifications=ASKED, **changes)
    driver.claim(job_id)
    node.take().run(exit_code)
    return job_id


def test_a_letter_tells_how_a_job_ended(
    server: Start, anna: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    mail = server()
    job_id = finish(anna, driver, node, exit_code=3, outputFiles=[])
    assert deliver()
    [taken] = mail.taken()
    assert taken.recipients == ["anna@example.org"]
    message = taken.message
    assert message["To"] == "anna@example.org"
    assert message["Subject"] == f"PROMINENCE: job {job_id} calculate-pi completed"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"
    for line in (
        f'Your job {job_id} "calculate-pi" has ended.',
        "Status:     completed",
        "Exit code:  3",
        f"prominence stdout {job_id}",
        f"prominence describe {job_id}",
        "PROMINENCE at http://localhost:8080/api/v1",
        "its standard output is kept for 30 days",
    ):
        assert line in taken.text, taken.text
    assert "prominence download" not in taken.text
    assert "Submitted:" in taken.text
    assert "Ended:" in taken.text
    [row] = box(database)
    assert row["sent_at"] is not None
    assert (row["job_id"], row["tries"], row["error"]) == (job_id, 1, "")
    assert deliver()
    assert len(mail.taken()) == 1, "a letter is sent once"


def test_no_letter_without_having_asked(
    server: Start, anna: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    driver.claim(anna.submit())
    node.take().run()
    assert box(database) == []


@pytest.mark.parametrize(
    ("status", "reason"), [("failed", "Container image pull failed"), ("killed", "Walltime limit exceeded")]
)
def test_a_letter_names_the_reason(
    server: Start,
    anna: User,
    driver: Driver,
    node: PretendNode,
    status: str,
    reason: str,
) -> None:
    mail = server()
    job_id = anna.submit(notifications=ASKED)
    driver.claim(job_id)
    node.take().report("end", status=status, reason=reason, node_success=False, execution={"tasks": [{}]})
    assert deliver()
    [taken] = mail.taken()
    assert taken.message["Subject"].endswith(status)
    assert f"Reason:     {reason}" in taken.text
    assert "Exit code" not in taken.text
    assert "prominence stdout" not in taken.text, "it never ran"


def test_a_letter_says_where_the_only_copy_is(
    server: Start, anna: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    why = "Unable to stageout output to object storage"
    for stored in (False, True):
        job_id = anna.submit(notifications=ASKED, outputFiles=["a"])
        driver.claim(job_id)
        runner = node.take(job_id)
        runner.report("running")
        runner.report("stage_out")
        if stored:
            runner.report("output", name="a", asked="a", kind="file", file="a", size=1, sha256="0" * 64)
        runner.report("end", status="completed" if stored else "failed", reason="" if stored else why, kept_s=3600)
    lost, well = (letter["body"] for letter in box(database)[-2:])
    assert re.search(r"Output that is not stored: +kept on the job's node until 20\d\d-.* UTC\n", lost), lost
    assert re.search(r"Store it until then: +clear the task stage_out of the job's run in Airflow\n", lost), lost
    assert "stage_out" not in well


def test_a_deleted_job_is_told_of_too(server: Start, anna: User) -> None:
    mail = server()
    job_id = anna.submit(notifications=ASKED)
    assert anna.delete(f"/jobs/{job_id}").status_code == 200
    assert deliver()
    [taken] = mail.taken()
    assert taken.message["Subject"].endswith("deleted")


def test_only_the_last_attempt_is_told_of(
    server: Start, anna: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    job_id = anna.submit(notifications=ASKED, policies={"maximumRetries": 1})
    for code in (1, 0):
        assert box(database) == []
        driver.claim(job_id)
        node.take().run(code)
    [row] = box(database)
    assert "Attempts:   2" in row["body"]


def test_a_letter_is_written_in_the_transaction_of_the_end(server: Start, anna: User, database: sa.Engine) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import transitions

    server()
    job_id = anna.submit(notifications=ASKED)

    class Struck(Exception):
        pass

    def ends_and_is_struck(session: Any) -> None:
        transitions.delete(session, job_id, anna.name)
        raise Struck

    with pytest.raises(Struck):
        transact(ends_and_is_struck)
    assert box(database) == []
    assert anna.describe(job_id)["status"] == "pending"


# --- who gets letters ------------------------------------------------------------------------------------------------


def refusal(user: User) -> str:
    answer = user.post("/jobs", json=job(notifications=ASKED))
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


def test_who_has_no_address_is_told_so(server: Start, alice: User) -> None:
    server()
    assert refusal(alice) == "notifications: your token names no e-mail address, so no letter can be sent to you"
    assert alice.submit(notifications=[]) > 0


@pytest.mark.parametrize(
    "address",
    [
        "anna",
        "anna@example.org, eve@example.org",
        "anna@example.org\r\nRCPT TO:<eve@example.org>",
        "a b@c.d",
        "@",
        "x" * 251 + "@a.b",
    ],
)
def test_an_address_that_is_none_is_refused(server: Start, http: Any, address: str) -> None:
    server()
    words = "the e-mail address in your token is not one that a letter can be sent to"
    assert refusal(with_address(http, address)) == f"notifications: {words}"


def test_where_there_is_no_mail_server_a_job_that_wants_letters_is_refused(anna: User) -> None:
    assert refusal(anna) == "notifications: this service has no mail server, so no letter can be sent"


def test_a_run_started_in_airflow_names_no_address(server: Start, driver: Driver, alice: User) -> None:
    from tests.api.test_housekeeping import trigger

    server()
    run = f"manual-{time.time()}"
    trigger(job(notifications=ASKED), alice.name, run)
    answer = driver.post(f"/runs/prominence_job/{run}/job")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("notifications: ")


# --- nothing a user writes is more than text -------------------------------------------------------------------------


def test_a_name_cannot_become_a_header(
    server: Start, anna: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    mail = server()
    job_id = anna.submit(notifications=ASKED)
    with database.begin() as connection:
        # No document gets that far; the letter must not depend on it.
        rename = sa.text("UPDATE prominence_job SET name = :name WHERE id = :id")
        connection.execute(rename, {"id": job_id, "name": "pi\r\nBcc: eve@example.org\n\nBody   of/mine\t"})
    driver.claim(job_id)
    node.take().run()
    assert deliver()
    [taken] = mail.taken()
    assert taken.message["Subject"] == f"PROMINENCE: job {job_id} pi Bcc: eve@example.org Body of/mine completed"
    assert set(taken.message.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }


def test_whatever_the_text_the_headers_and_recipients_are_ours(server: Start, database: sa.Engine) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import letters

    mail = server()
    evil = "é\r\nBcc: eve@example.org\r\n\r\n\u2028x\x00\x85 " + "long " * 300
    body = "first\r\n.\r\nMAIL FROM:<eve@example.org>\nlast ☃\n"
    transact(lambda session: letters.write(session, "anna@example.org", evil, body))
    assert deliver()
    [taken] = mail.taken()
    assert taken.recipients == ["anna@example.org"]
    assert taken.message["Bcc"] is None
    assert taken.message["Subject"].startswith("é Bcc: eve@example.org x long")
    assert "\nlast ☃\n" in taken.text.replace("\r\n", "\n")


# --- servers that misbehave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("behaviour", "words"), [("refuse", "No such user here"), ("busy", "Come again later")])
def test_a_refused_letter_is_tried_again_later(
    server: Start,
    anna: User,
    driver: Driver,
    node: PretendNode,
    database: sa.Engine,
    behaviour: str,
    words: str,
) -> None:
    refusing = server(behaviour)
    job_id = finish(anna, driver, node)
    assert anna.describe(job_id)["status"] == "completed"
    deliver()
    [row] = box(database)
    assert words in row["error"]
    assert row["sent_at"] is row["given_up_at"] is None
    assert 50 < row["next_try_at"] - time.time() < 70
    assert deliver()
    assert box(database)[0]["tries"] == 1, "not before its time"

    refusing.stop()
    well = server("well", refusing.port)
    change(database, "next_try_at = 0")
    assert deliver()
    assert [taken.recipients for taken in well.taken()] == [["anna@example.org"]]
    [row] = box(database)
    assert row["sent_at"] is not None
    assert (row["error"], row["tries"]) == ("", 2)


def test_tries_become_rarer(server: Start, anna: User, database: sa.Engine) -> None:
    server("busy")
    anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    waits = []
    for _ in range(9):
        deliver()
        waits.append(box(database)[0]["next_try_at"] - time.time())
        change(database, "next_try_at = 0")
    assert waits == pytest.approx([60, 120, 240, 480, 960, 1920, 3600, 3600, 3600], abs=10)


def test_a_refused_letter_keeps_no_other_waiting(server: Start, anna: User, database: sa.Engine) -> None:
    server("refuse")
    for _ in range(3):
        anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    deliver()
    assert [row["tries"] for row in box(database)] == [1, 1, 1]


@pytest.mark.parametrize("behaviour", ["slow", "mute"])
def test_a_slow_server_is_not_waited_for(
    server: Start,
    anna: User,
    database: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
) -> None:
    from airflow_prominence.api import mailer, mailserver

    monkeypatch.setattr(mailer, "SEND_WITHIN_S", 1)
    monkeypatch.setattr(mailserver, "OPEN_WITHIN_S", 1)
    server(behaviour)
    for _ in range(2):
        anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    began = time.monotonic()
    assert deliver() is False
    assert time.monotonic() - began < 10
    first, second = box(database)
    assert first["error"] == "the mail server did not answer in time"
    assert (first["tries"], second["tries"]) == (1, 0), "the rest waits for the server"


def test_a_dead_server_costs_one_try(server: Start, anna: User, database: sa.Engine) -> None:
    dead = server()
    dead.stop()
    for _ in range(3):
        anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    assert deliver() is False
    rows = box(database)
    assert [row["tries"] for row in rows] == [1, 0, 0]
    assert "Connect" in rows[0]["error"]

    revived = server("well", dead.port)
    change(database, "next_try_at = 0")
    assert deliver()
    assert len(revived.taken()) == 3


def test_a_letter_is_given_up_after_two_days(server: Start, anna: User, database: sa.Engine) -> None:
    server("refuse")
    anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    change(database, "created_at = created_at - :age", age=48 * 3600)
    deliver()
    [row] = box(database)
    assert row["given_up_at"] is not None
    assert "No such user here" in row["error"]
    change(database, "next_try_at = 0")
    deliver()
    assert box(database)[0]["tries"] == 1


def test_a_connection_that_went_away_is_said_in_the_letters_error(
    server: Start, anna: User, database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server()
    anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    monkeypatch.delenv(CONNECTION)
    assert deliver() is False
    assert box(database)[0]["error"] == "there is no Airflow connection smtp_default"


# --- once each, whoever sends ----------------------------------------------------------------------------------------


def test_several_senders_send_each_letter_once(server: Start, database: sa.Engine) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import letters

    mail = server()
    for number in range(40):
        transact(lambda session, n=number: letters.write(session, f"user{n}@example.org", "s", "b"))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: deliver(), range(4)))
    assert sorted(taken.recipients[0] for taken in mail.taken()) == sorted(f"user{n}@example.org" for n in range(40))
    assert {row["tries"] for row in box(database)} == {1}


def test_what_a_dead_sender_had_claimed_is_sent_by_another_with_the_same_message_id(
    server: Start, anna: User, database: sa.Engine
) -> None:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import letters

    mail = server()
    anna.delete(f"/jobs/{anna.submit(notifications=ASKED)}")
    dead = transact(lambda session: letters.claim_next(session, time.time()))
    assert dead is not None
    assert deliver()
    assert mail.taken() == [], "it is claimed"
    change(database, "next_try_at = next_try_at - :claim", claim=letters.CLAIM_S)
    assert deliver()
    transact(lambda session: letters.failed(session, dead, "too late", time.time(), time.time()))
    assert box(database)[0]["error"] == "", "the dead one's news is old"
    change(database, "sent_at = NULL, next_try_at = 0")
    assert deliver()
    first, second = mail.taken()
    assert first.message["Message-ID"] == second.message["Message-ID"]


# --- how the server is reached ---------------------------------------------------------------------------------------


def send_one(database: sa.Engine) -> bool:
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import letters

    transact(lambda session: letters.write(session, "anna@example.org", "s", "b"))
    return deliver()


def test_it_logs_in(server: Start, database: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    mail = server("login", login="post", password=PASSWORD)
    with caplog.at_level("DEBUG"):
        assert send_one(database)
    assert len(mail.taken()) == 1
    assert PASSWORD not in caplog.text


def test_a_wrong_password_is_trouble_and_is_not_told(
    server: Start, database: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    server("login", login="post", password="quite another password")
    with caplog.at_level("DEBUG"):
        assert send_one(database) is False
    [row] = box(database)
    assert "Authentication" in row["error"]
    assert "quite another password" not in row["error"] + caplog.text


@pytest.mark.parametrize(
    ("behaviour", "extra"), [("tls", {"disable_ssl": False}), ("starttls", {"disable_tls": False})]
)
def test_certificates_are_checked_unless_the_connection_says_otherwise(
    server: Start, database: sa.Engine, behaviour: str, extra: dict[str, Any]
) -> None:
    distrusted = server(behaviour, **extra)
    assert send_one(database) is False
    assert distrusted.taken() == []
    assert "certificate" in box(database)[0]["error"].lower()
    distrusted.stop()
    trusted = server(behaviour, ssl_context="none", **extra)
    change(database, "next_try_at = 0")
    assert deliver()
    assert len(trusted.taken()) == 1


@pytest.mark.parametrize(
    ("extra", "sender"),
    [
        ({}, "prominence@localhost"),
        ({"login": "post@example.org"}, "post@example.org"),
        ({"login": "post@example.org", "from_email": "batch@example.org"}, "batch@example.org"),
    ],
)
def test_whom_letters_come_from(server: Start, database: sa.Engine, extra: dict[str, Any], sender: str) -> None:
    mail = server("well", **extra)
    assert send_one(database)
    [taken] = mail.taken()
    assert taken.sender == sender
    assert sender in taken.message["From"]


def test_airflows_own_hook_understands_the_connection_alike(server: Start, database: sa.Engine) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    from airflow_prominence import _compat

    mail = server("login", login="post", password=PASSWORD, from_email="batch@example.org")
    hook = SmtpHook("smtp_default")
    hook.smtp_connection = _compat.get_connection("smtp_default")
    assert (hook.host, hook.port, hook.smtp_user) == ("127.0.0.1", mail.port, "post")
    assert json.loads(mail.connection())["conn_type"] == SmtpHook.conn_type
    assert send_one(database)
