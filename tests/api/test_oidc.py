"""Access tokens of an OpenID Connect issuer: real RS256 keys, served over HTTP as an issuer serves them."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.api.conftest import User, job


class Issuer:
    """Discovery and keys on loopback, with a switch to be away and a count of what was asked."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.away = False
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                pages = {"/.well-known/openid-configuration": issuer.document(), "/keys": issuer.keys()}
                page = None if issuer.away else pages.get(self.path)
                self.send_response(503 if page is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def document(self) -> dict[str, str]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

    def keys(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": "one", "use": "sig", "alg": "RS256"}]}

    def token(self, key: Any = None, algorithm: str = "RS256", **change: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "prominence-users", "sub": "erika", "iat": now, "exp": now + 60}
        claims.update(change)
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key if key is None else key, algorithm=algorithm, headers={"kid": "one"})


@pytest.fixture
def issuer(http: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    from airflow_prominence.api import oidc
    from airflow_prominence.api.settings import settings

    made = Issuer()
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_ISSUER", made.url)
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_AUDIENCE", "prominence-users")
    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_REQUIRED_GROUP", "fusion")
    settings.cache_clear()
    oidc._discovered.cache_clear()
    yield made
    monkeypatch.undo()
    settings.cache_clear()
    made.server.shutdown()
    made.server.server_close()


def status(http: Any, bearer: str) -> int:
    return int(User(http, "erika", bearer).get("/jobs").status_code)


def test_a_token_of_the_issuer_is_its_users(http: Any, issuer: Issuer) -> None:
    erika = User(http, "erika", issuer.token(groups=["fusion"], email="erika@example.org"))
    job_id = erika.submit()
    assert erika.describe(job_id)["id"] == job_id
    again = User(http, "erika", issuer.token(groups="other,fusion"))
    assert [item["id"] for item in again.get("/jobs").json()] == [job_id]


def test_keys_are_fetched_once(http: Any, issuer: Issuer) -> None:
    for _ in range(5):
        assert status(http, issuer.token(groups=["fusion"])) == 200
    assert issuer.asked == 2


@pytest.mark.parametrize(
    "change",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "others"},
        {"aud": None},
        {"groups": ["others"]},
        {"groups": None},
        {"sub": None},
        {"sub": " "},
        {"sub": "x" * 300},
    ],
)
def test_a_token_that_is_not_for_us_is_refused(http: Any, issuer: Issuer, change: dict[str, Any]) -> None:
    assert status(http, issuer.token(**{"groups": ["fusion"], **change})) == 401


def signed_with_public_key(token: str, public: bytes) -> str:
    """The same claims under HS256 with the issuer's public key as the secret, by hand: libraries refuse to do it."""

    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode())
    signed = f"{head}.{token.split('.')[1]}"
    return f"{signed}.{encoded(hmac.new(public, signed.encode(), 'sha256').digest())}"


def test_forged_tokens_are_refused(http: Any, issuer: Issuer) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert status(http, issuer.token(key=stranger, groups=["fusion"])) == 401
    assert status(http, issuer.token(key="x" * 64, algorithm="HS256", groups=["fusion"])) == 401
    public = issuer.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert status(http, signed_with_public_key(issuer.token(groups=["fusion"]), public)) == 401
    unsigned = jwt.encode({"iss": issuer.url, "sub": "erika", "exp": time.time() + 60}, None, algorithm="none")
    assert status(http, unsigned) == 401


def test_an_issuer_that_is_away_is_named_and_only_waited_for(http: Any, issuer: Issuer) -> None:
    issuer.away = True
    answer = User(http, "erika", issuer.token(groups=["fusion"])).post("/jobs", json=job())
    assert answer.status_code == 401
    assert "Unable to connect to OIDC server" in answer.json()["error"]
    issuer.away = False
    assert status(http, issuer.token(groups=["fusion"])) == 200


def test_an_issuer_without_an_audience_is_refused_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_prominence.api.settings import settings

    monkeypatch.setenv("AIRFLOW__PROMINENCE__OIDC_ISSUER", "https://login.example.org")
    settings.cache_clear()
    with pytest.raises(ValueError, match="oidc_audience"):
        settings()
    monkeypatch.undo()
    settings.cache_clear()
