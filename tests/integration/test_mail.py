"""Letters on a running stack: the real client asks, Airflow's own connection sends, a real mail server takes them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.airflows import Airflow
from tests.integration.stacks import Ended, Stack, until
from tests.smtpserver import PASSWORD, MailServer, Taken

DAY = 86400.0


class Post:
    """A user with an address, whose letters a mail server takes that can be started and stopped."""

    def __init__(self, stack: Stack, server: MailServer, folder: Path) -> None:
        self.stack, self.server, self.folder = stack, server, folder
        name = f"anna-{uuid.uuid4().hex[:6]}"
        self.address = f"{name}@example.org"
        made = stack.run_airflow("prominence", "token", name, "--email", self.address)
        assert made.code == 0, made
        self.token = made.stdout.strip()

    def cli(self, *arguments: str) -> Ended:
        return self.stack.run_cli(*arguments, token=self.token, cwd=self.folder)

    def run(self, cmd: str, *, asks: bool = True) -> int:
        """Submit a document as a file, as a user does who wants to be told; the job's id."""
        document: dict[str, Any] = {
            "name": "told",
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": self.stack.image, "runtime": "singularity", "cmd": cmd}],
        }
        if asks:
            document["notifications"] = [{"event": "jobFinished", "type": "email"}]
        (self.folder / "job.json").write_text(json.dumps(document))
        done = self.cli("run", "job.json")
        assert done.code == 0, done
        return int(re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)[0])

    def wait(self, job: int) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            described = self.stack.describe(job, self.token)
            return described if described["status"] in ("completed", "failed", "killed", "deleted") else None

        found = until(ended, 90, what=f"job {job} ends")
        assert found is not None
        return found

    def letters(self) -> list[Taken]:
        return [taken for taken in self.server.taken() if taken.recipients == [self.address]]


@pytest.fixture
def post(stack: Stack, airflow: Airflow, tmp_path: Path) -> Iterator[Post]:
    folder = tmp_path / "letters"
    folder.mkdir()
    server = MailServer(folder, "login")
    connection = {
        "connection_id": "smtp_default",
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": server.port,
        "login": "post",
        "password": PASSWORD,
        "extra": json.dumps({"disable_ssl": True, "disable_tls": True, "timeout": 5}),
    }
    made = airflow.http.post("/api/v2/connections", json=connection)
    assert made.status_code == 201, made.text
    try:
        yield Post(stack, server.start(), tmp_path)
    finally:
        server.stop()
        airflow.http.delete("/api/v2/connections/smtp_default").raise_for_status()


def test_the_end_of_a_job_is_told_of(post: Post) -> None:
    silent = post.run("true", asks=False)
    job = post.run("sh -c 'exit 3'")
    for number in (silent, job):
        assert post.wait(number)["status"] == "completed"
    [letter] = until(post.letters, 30, what="the letter arrives")
    assert letter.message["Subject"] == f"PROMINENCE: job {job} told completed"
    assert re.search(r"^  Exit code: +3\r?$", letter.text, re.MULTILINE), letter.text
    assert f"prominence stdout {job}" in letter.text


def test_a_mail_server_that_is_down_fails_no_job_and_loses_no_letter(post: Post, airflow: Airflow) -> None:
    post.server.stop()
    job = post.run("echo fine")
    described = post.wait(job)
    assert (described["status"], described.get("statusReason")) == ("completed", None)
    assert airflow.ended(airflow.run_of(job)) == "success"
    done = post.cli("stdout", str(job))
    assert (done.code, done.stdout) == (0, "fine\n\n")
    failed = "SELECT tries, error FROM prominence_mail WHERE job_id = %s AND tries > 0 AND error <> ''"
    [(_, error)] = until(lambda: post.stack.psql(failed, job), 30, what="a try has failed")
    assert "Error connecting to 127.0.0.1" in error
    assert PASSWORD not in error
    post.server.start()
    post.stack.psql("UPDATE prominence_mail SET next_try_at = 0 WHERE job_id = %s", job)
    [letter] = until(post.letters, 60, what="the letter arrives after all")
    assert letter.message["Subject"] == f"PROMINENCE: job {job} told completed"


def test_what_will_be_removed_is_warned_of_before(post: Post, airflow: Airflow) -> None:
    """The maintenance DAG does it; only the clock of this job is moved."""
    job = post.run("echo precious")
    post.wait(job)
    until(post.letters, 30, what="the letter about its end")
    _let_pass(post.stack, job, 24)
    _maintain(airflow)
    _, warning = until(lambda: _two(post.letters()), 150, 1, "the warning arrives")
    assert warning.message["Subject"] == f"PROMINENCE: something of job {job} will be removed soon"
    described = json.loads(post.cli("describe", str(job)).stdout)
    day = re.findall(r"standard output on (\d{4}-\d\d-\d\d)", warning.text)[0]
    # The letter was written a moment before the six days were over that the seven of warning add up to.
    assert described["statusReason"].startswith(f"Standard output will be removed on {day}"), described
    _let_pass(post.stack, job, 8)
    _maintain(airflow)
    until(lambda: not post.stack.psql("SELECT 1 FROM prominence_output WHERE job_id = %s", job), 150, 1)
    # Which of execution is printed is the released client's list; the API itself tells all.
    described = post.stack.describe(job, post.token)
    assert set(described["execution"]["retention"]["stdout"]) == {"removed"}
    done = post.cli("stdout", str(job))
    assert done.code == 1
    assert re.fullmatch(r"Error: stdout was removed on \d{4}-\d\d-\d\d, as it is not kept longer\n", done.stdout), done
    assert len(post.letters()) == 2


def _two(letters: list[Taken]) -> list[Taken]:
    return letters if len(letters) == 2 else []


def _maintain(airflow: Airflow) -> None:
    """Have it run now; by itself it does each minute."""
    answer = airflow.http.post("/api/v2/dags/prominence_maintenance/dagRuns", json={"logical_date": None})
    assert answer.status_code == 200, answer.text


def _let_pass(stack: Stack, job: int, days: float) -> None:
    moved = ", ".join(f"{at} = {at} - %s" for at in ("created_at", "started_at", "ended_at", "warned_at"))
    stack.psql(f"UPDATE prominence_job SET {moved} WHERE id = %s", *[days * DAY] * 4, job)
