"""Signed URLs: good for one method, key, checksum and time, and for nothing else."""

from __future__ import annotations

import string
import time
from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_prominence.objects.keys import is_key
from airflow_prominence.objects.signing import SignatureRefused, Signer

SIGNER = Signer("a secret")
KEYS = st.text(min_size=1, max_size=60).filter(is_key)
SUMS = st.one_of(st.none(), st.text("0123456789abcdef", min_size=64, max_size=64))
ANY = st.text(string.printable, max_size=80)


def parts(path: str) -> tuple[str, str, str | None, str]:
    """A signed path as the route gets it."""
    quoted, _, query = path.partition("?")
    values = {name: value[0] for name, value in parse_qs(query).items()}
    return unquote(quoted), values["expires"], values.get("sha256"), values["token"]


@given(st.sampled_from(["GET", "PUT"]), KEYS, SUMS)
def test_what_was_signed_is_accepted(method: str, key: str, sha256: str | None) -> None:
    found, expires, checksum, signature = parts(SIGNER.path(method, key, 60, sha256))
    assert (found, checksum) == (key, sha256)
    SIGNER.check(method, found, expires, checksum, signature)


@given(KEYS, SUMS, KEYS, ANY, st.one_of(st.none(), ANY), ANY)
def test_no_change_is_accepted(
    key: str, sha256: str | None, other_key: str, other_expires: str, other_sum: str | None, other_signature: str
) -> None:
    key, expires, checksum, signature = parts(SIGNER.path("PUT", key, 60, sha256))
    changed = [
        ("GET", key, expires, checksum, signature),
        ("PUT", other_key, expires, checksum, signature),
        ("PUT", key, other_expires, checksum, signature),
        ("PUT", key, expires, other_sum, signature),
        ("PUT", key, f"{expires}\n{other_sum}", None, signature),
        ("PUT", key, expires, checksum, other_signature),
        ("PUT", key, expires, checksum, signature[:-1]),
        ("PUT", key, expires, checksum, signature + "é"),
    ]
    for other in changed:
        # An empty checksum says as little as none.
        if (*other[:3], other[3] or None, other[4]) == ("PUT", key, expires, checksum, signature):
            continue
        with pytest.raises(SignatureRefused, match="does not fit"):
            SIGNER.check(*other)


def test_another_deployment_signs_otherwise() -> None:
    key, expires, checksum, signature = parts(SIGNER.path("GET", "uploads/a/x", 60))
    with pytest.raises(SignatureRefused):
        Signer("another secret").check("GET", key, expires, checksum, signature)
    with pytest.raises(ValueError, match="internal_secret"):
        Signer("")


def test_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parts(SIGNER.path("GET", "uploads/a/x", 60))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 59)
    SIGNER.check("GET", *arguments)
    monkeypatch.setattr(time, "time", lambda: now + 62)
    with pytest.raises(SignatureRefused, match="has expired"):
        SIGNER.check("GET", *arguments)
