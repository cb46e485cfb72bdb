"""Login routes where the issuer is no help. A login at a real issuer: tests/browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.test_oidc import Issuer

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
def issuer(http: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    """An issuer that has keys and nothing else: no registration, no device flow."""
    from airflow_prominence.api.settings import settings

    made = Issuer()
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_ISSUER", made.url)
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_AUDIENCE", "prominence-users")
    settings.cache_clear()
    yield made
    monkeypatch.undo()
    settings.cache_clear()
    made.server.shutdown()
    made.server.server_close()


def answer(http: Any, path: str, **request: Any) -> tuple[int, str]:
    got = http.post(f"/api/v1{path}", **request)
    return got.status_code, got.json()["error"]


CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/register", {"json": {"client_name": "erika"}}),
    ("/devicecode", {"data": {"client_id": "erika"}}),
    ("/token", {"data": {"grant_type": DEVICE, "device_code": "x"}}),
)


@pytest.mark.parametrize(("path", "request_"), CALLS)
def test_without_an_issuer_the_user_is_told_whom_to_ask(http: Any, path: str, request_: dict[str, Any]) -> None:
    status, sentence = answer(http, path, **request_)
    assert (status, sentence) == (
        400,
        "No OpenID Connect issuer is configured here: ask the service's admin for a token",
    )


@pytest.mark.parametrize(("path", "request_"), CALLS)
def test_an_issuer_without_such_a_flow_is_said_to_have_none(
    http: Any, issuer: Issuer, path: str, request_: dict[str, Any]
) -> None:
    status, sentence = answer(http, path, **request_)
    assert status == 400
    assert sentence.startswith("The OIDC issuer "), sentence


@pytest.mark.parametrize(("path", "request_"), CALLS)
def test_an_issuer_that_is_away_is_named(http: Any, issuer: Issuer, path: str, request_: dict[str, Any]) -> None:
    issuer.away = True
    assert answer(http, path, **request_) == (503, "Unable to connect to OIDC server")


@pytest.mark.parametrize(
    ("path", "request_", "wrong"),
    [
        ("/register", {"json": []}, "The body must be a JSON object"),
        ("/register", {"content": b"{"}, "JSON"),
        ("/register", {"json": {"client_name": 7}}, "client_name: "),
        ("/register", {"json": {"client_name": "x" * 201}}, "client_name: "),
        ("/devicecode", {"content": b"\xff=1"}, "The body must be a form"),
        ("/devicecode", {"content": b"&".join(b"a%d=1" % n for n in range(99))}, "The body must be a form"),
        ("/token", {"data": {}}, "grant_type: "),
        ("/token", {"data": {"grant_type": "password", "username": "u", "password": "p"}}, "grant_type: "),
        ("/token", {"data": {"grant_type": DEVICE}}, "device_code: "),
        ("/token", {"data": {"grant_type": "refresh_token"}}, "refresh_token: "),
    ],
)
def test_what_is_no_login_is_not_passed_on(
    http: Any, issuer: Issuer, path: str, request_: dict[str, Any], wrong: str
) -> None:
    status, sentence = answer(http, path, **request_)
    assert status == 400
    assert wrong in sentence
    assert issuer.asked == 0


def test_a_login_has_a_bound(http: Any, issuer: Issuer) -> None:
    status, sentence = answer(http, "/token", content=b"x" * 70_000)
    assert status == 413
    assert sentence.startswith("The request is larger than")


def test_login_parameters_that_are_no_query_are_refused_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_prominence.api import settings

    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_ISSUER", "https://login.example.org")
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_AUDIENCE", "x")
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_LOGIN_PARAMETERS", "scope openid")
    with pytest.raises(ValueError, match="oidc_login_parameters"):
        settings._oidc()
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_LOGIN_PARAMETERS", "scope=openid groups&resource=https://x")
    found = settings._oidc()
    assert found is not None
    assert found.login_parameters == (("scope", "openid groups"), ("resource", "https://x"))
