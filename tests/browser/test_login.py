"""`prominence register` and `prominence login` of the released client at a certified issuer, the user in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.standalone.settings import own_environment
from tests.browser.issuers import CLIENT, ERIKA, MAX, Issuer, asked
from tests.integration.stacks import Ended, Stack

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Person:
    """Somebody with a home of their own, an address of the service and no token."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self.home = home
        addresses = {"PROMINENCE_URL": stack.url, "PROMINENCE_OIDC_URL": stack.url, "HOME": str(home)}
        # Its Python writes at once, as to a terminal: we wait for what it asks.
        self.environ = {**own_environment(os.environ), **addresses}
        self.program = str(Path(sys.executable).with_name("prominence"))

    def run(self, *arguments: str) -> Ended:
        done = subprocess.run(
            [self.program, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def log_in(self, issuer: Issuer, user: str) -> Ended:
        """`prominence login`, and what it asks for done in the browser."""
        with subprocess.Popen(
            [self.program, "login"],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as client:
            assert client.stdout is not None
            first = client.stdout.readline()
            wanted = asked(first)
            if wanted is None:
                rest, _ = client.communicate(timeout=60)
                return Ended(client.returncode, first + rest, "")
            issuer.agree(*wanted, user)
            rest, _ = client.communicate(timeout=60)
            return Ended(client.returncode, first + rest, "")

    def file(self, name: str) -> tuple[dict[str, Any], int]:
        path = self.home / ".prominence" / name
        return json.loads(path.read_text()), path.stat().st_mode & 0o777


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Person:
    return Person(stack, tmp_path)


def test_a_user_registers_logs_in_and_runs_a_job(stack: Stack, issuer: Issuer, person: Person) -> None:
    assert person.run("register") == Ended(0, "Client registration successful\n", "")
    client, mode = person.file("client")
    assert (mode, sorted(client)[:2]) == (0o600, ["application_type", "client_id"])
    assert client["grant_types"] == [DEVICE]
    assert person.run("register") == Ended(0, "", ""), "registered once"

    ended = person.log_in(issuer, ERIKA)
    assert (ended.code, ended.stdout.splitlines()[1:]) == (0, ["Successfully retrieved token"])
    kept, mode = person.file("token")
    assert (mode, kept["token_type"]) == (0o600, "Bearer")

    created = person.run("create", "--name", "logged-in", stack.image, "echo hello erika")
    assert created.stdout.startswith("Job created with id "), created
    job = created.stdout.split()[-1]
    described = json.loads(person.run("describe", job).stdout)
    assert (described["id"], described["name"]) == (int(job), "logged-in")
    assert stack.psql("SELECT owner FROM prominence_job WHERE id = %s", int(job)) == [(ERIKA,)]
    with stack.client() as demo:
        assert demo.get(f"/jobs/{job}").json() == []
    with stack.client(kept["access_token"]) as erika:
        deadline = time.monotonic() + 90
        while erika.get(f"/jobs/{job}").json()[0]["status"] != "completed" and time.monotonic() < deadline:
            time.sleep(0.5)
    assert person.run("stdout", job).stdout.strip() == "hello erika"


def test_who_lacks_the_group_is_refused_and_the_admin_is_told_why(stack: Stack, issuer: Issuer, person: Person) -> None:
    assert person.run("register").code == 0
    assert person.log_in(issuer, MAX).stdout.endswith("Successfully retrieved token\n")
    assert person.run("list") == Ended(1, "Error: authentication failed\n", "")
    logs = "".join(path.read_text(errors="replace") for path in stack.places.logs.glob("api-server*"))
    assert "the issuer has just given a user a token that is refused here: the user is not in group fusion" in logs


def test_login_without_a_registered_client_says_what_is_missing(person: Person) -> None:
    assert person.run("login").code == 1
    assert person.run("login").stdout.startswith("Error: Unable to get a client id and client secret")


def test_a_client_that_the_issuer_does_not_know_is_refused(person: Person) -> None:
    person.environ |= {"PROMINENCE_OIDC_CLIENT_ID": "nobody", "PROMINENCE_OIDC_CLIENT_SECRET": "nothing"}
    ended = person.run("login")
    assert ended == Ended(1, "Error: Unable to initiate the device code flow: got status code 401\n", "")


def test_no_token_of_a_login_is_in_the_logs(stack: Stack, issuer: Issuer, person: Person) -> None:
    person.run("register")
    person.log_in(issuer, ERIKA)
    secrets = [person.file("token")[0]["access_token"], person.file("client")[0]["client_secret"]]
    person.run("list")
    for path in stack.places.logs.rglob("*"):
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text], path


@pytest.fixture
def site_client(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Our public app where the settings name the one client of a site; login needs no database."""
    from starlette.testclient import TestClient

    from airflow_prominence.api.app import public_app
    from airflow_prominence.api.settings import settings

    named = {"AIRFLOW__PROMINENCE__OIDC_CLIENT_ID": CLIENT[0], "AIRFLOW__PROMINENCE__OIDC_CLIENT_SECRET": CLIENT[1]}
    for name, value in {**issuer.settings(), **named}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    with TestClient(public_app(), raise_server_exceptions=False) as client:
        yield client
    monkeypatch.undo()
    settings.cache_clear()


def test_a_site_may_log_everybody_in_with_one_client(site_client: Any, issuer: Issuer) -> None:
    from airflow_prominence.api import oidc

    def post(path: str, **form: str) -> tuple[int, Mapping[str, Any]]:
        answer = site_client.post(path, data={"client_id": pair[0], **form}, auth=pair)
        return answer.status_code, answer.json()

    registered = site_client.post("/register", json={"client_name": "prominence-user-1"})
    assert registered.status_code == 201
    pair = (registered.json()["client_id"], registered.json()["client_secret"])
    assert CLIENT[1] not in registered.text

    status, began = post("/devicecode", scope="openid profile email")
    assert (status, began["expires_in"]) == (200, 600)
    code = {"grant_type": DEVICE, "device_code": began["device_code"]}
    assert post("/token", **code)[1]["error"] == "authorization_pending"
    issuer.agree(began["verification_uri"], began["user_code"], ERIKA)
    status, given = post("/token", **code)
    assert status == 200
    assert oidc.check(given["access_token"]).name == ERIKA
    assert post("/token", **code)[0] == 400, "a device code is good once"
