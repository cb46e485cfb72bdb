"""``/objects``: bytes for who holds a signed URL, all of them or a part, and for nobody else."""

from __future__ import annotations

import hashlib
import re
import resource
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_prominence.objects import LocalStore, object_store

DATA = bytes(range(256)) * 8
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(http: Any) -> LocalStore:
    found = object_store()
    assert isinstance(found, LocalStore)
    return found


@pytest.fixture
def key() -> str:
    """A key of this test."""
    return f"scratch/{uuid.uuid4().hex}/ä file.tgz"


def at(url: str) -> str:
    """A URL of ours as the test's client asks for it."""
    split = urlsplit(url)
    return f"{split.path}?{split.query}"


def get(http: Any, store: LocalStore, key: str, method: str = "GET", **headers: str) -> Any:
    return http.request(method, at(store.url_to_get(key, 60)), headers=headers)


def put(http: Any, store: LocalStore, key: str, data: Any, sha256: str | None = None, **headers: str) -> Any:
    return http.put(at(store.url_to_put(key, 60, sha256).url), content=data, headers=headers)


def waiting(store: LocalStore) -> list[str]:
    return [path.name for path in (store.root / "incoming").iterdir()]


def test_what_was_put_is_got(http: Any, store: LocalStore, key: str) -> None:
    answer = put(http, store, key, DATA)
    assert (answer.status_code, answer.json()) == (201, {"size": len(DATA), "sha256": SUM})
    answer = get(http, store, key, **{"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["etag"] == f'"{SUM}"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%20file.tgz"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = get(http, store, key, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(DATA))


def test_both_prefixes_serve(http: Any, store: LocalStore, key: str) -> None:
    store.write(key, DATA)
    url = at(store.url_to_get(key, 60))
    assert url.startswith("/api/v1/objects/")
    assert http.get(url.replace("/api/v1/", "/prominence/v1/")).content == DATA


def test_an_object_may_be_empty_or_come_without_a_length(http: Any, store: LocalStore, key: str) -> None:
    assert put(http, store, key, b"").json()["size"] == 0
    assert get(http, store, key).content == b""
    assert put(http, store, key, iter([DATA, DATA])).json()["size"] == 2 * len(DATA)
    assert store.read(key) == DATA * 2


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, 2048),
        ("bytes=-5", 2043, 2048),
        ("bytes=-9999", 0, 2048),
        ("bytes=2000-9999", 2000, 2048),
    ],
)
def test_a_part_is_answered(http: Any, store: LocalStore, key: str, asked: str, start: int, end: int) -> None:
    store.write(key, DATA)
    answer = get(http, store, key, Range=asked)
    assert (answer.status_code, answer.content) == (206, DATA[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/2048"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=0-" + "9" * 30]
)
def test_what_is_no_single_range_is_answered_whole(http: Any, store: LocalStore, key: str, asked: str) -> None:
    store.write(key, DATA)
    answer = get(http, store, key, Range=asked)
    assert (answer.status_code, len(answer.content)) == (200, 2048)


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=-0", "bytes=9999-99999"])
def test_a_part_that_is_not_there_is_told(http: Any, store: LocalStore, key: str, asked: str) -> None:
    store.write(key, DATA)
    answer = get(http, store, key, Range=asked)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */2048")


def test_a_download_is_taken_up_only_with_the_same_version(http: Any, store: LocalStore, key: str) -> None:
    store.write(key, DATA)
    first = get(http, store, key).headers
    for condition in (first["etag"], first["last-modified"]):
        assert get(http, store, key, Range="bytes=2000-", **{"If-Range": condition}).status_code == 206
    assert get(http, store, key, **{"If-None-Match": f'"x", {first["etag"]}'}).status_code == 304
    store.write(key, DATA[::-1])
    answer = get(http, store, key, Range="bytes=2000-", **{"If-Range": first["etag"]})
    assert (answer.status_code, answer.content) == (200, DATA[::-1])
    assert get(http, store, key, **{"If-None-Match": first["etag"]}).status_code == 200
    for condition in ("W/" + first["etag"], "nonsense", "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert get(http, store, key, Range="bytes=2000-", **{"If-Range": condition}).status_code == 200


def test_a_wrong_checksum_is_refused_and_nothing_kept(http: Any, store: LocalStore, key: str) -> None:
    answer = put(http, store, key, DATA, "0" * 64)
    assert (answer.status_code, SUM in answer.json()["error"]) == (400, True)
    assert (store.stat(key), waiting(store)) == (None, [])
    assert put(http, store, key, DATA, SUM.upper()).status_code == 201


def test_a_missing_object_is_told_to_who_may_ask(http: Any, store: LocalStore, key: str) -> None:
    answer = get(http, store, key)
    assert (answer.status_code, answer.json()) == (404, {"error": "There is no such object"})


def test_a_url_is_for_its_method_key_and_time(http: Any, store: LocalStore, key: str, alice: Any) -> None:
    store.write(key, DATA)
    to_get, to_put = at(store.url_to_get(key, 60)), at(store.url_to_put(key, 60, SUM).url)
    other = at(store.url_to_get(key + "x", 60)).partition("?")[0]
    tries = {
        ("GET", to_put): "does not fit",
        ("PUT", to_get): "does not fit",
        ("GET", other + "?" + to_get.partition("?")[2]): "does not fit",
        ("GET", to_get.partition("?")[0]): "does not fit",
        ("GET", to_get[:-1]): "does not fit",
        ("GET", to_get.replace("expires=", "expires=9")): "does not fit",
        ("PUT", to_put.replace("&sha256=" + SUM, "")): "does not fit",
        ("PUT", to_put.replace(SUM, "0" * 64)): "does not fit",
        ("GET", at(store.url_to_get(key, -5))): "has expired",
        ("PUT", at(store.url_to_put(key, -5).url)): "has expired",
    }
    for (method, url), why in tries.items():
        for headers in ({}, {"Authorization": f"Bearer {alice.bearer}"}):
            answer = http.request(method, url, content=b"changed" if method == "PUT" else None, headers=headers)
            assert (answer.status_code, why in answer.json()["error"]) == (403, True), (method, url, answer.text)
    assert store.read(key) == DATA


@pytest.mark.parametrize("path", ["..%2F..%2Fsecret", "a%2F..%2F..%2Fb", "%2Fetc%2Fpasswd", "a%00b", ""])
def test_paths_that_are_no_keys(http: Any, store: LocalStore, path: str) -> None:
    for method in ("GET", "PUT"):
        answer = http.request(method, f"/api/v1/objects/{path}?expires={int(time.time()) + 60}&token={'0' * 64}")
        assert answer.status_code == 403, answer.text


def test_no_other_method_passes_without_a_bearer(http: Any, store: LocalStore, key: str) -> None:
    url = at(store.url_to_get(key, 60))
    for method in ("POST", "DELETE", "PATCH", "OPTIONS"):
        assert http.request(method, url).status_code == 401


def test_an_upload_has_a_limit_and_needs_room(http: Any, store: LocalStore, key: str, monkeypatch: Any) -> None:
    from airflow_prominence.api.settings import settings
    from airflow_prominence.objects import local

    limit = settings().max_upload
    assert limit == 8 << 20
    answer = put(http, store, key, bytes(limit + 1))
    assert (answer.status_code, answer.json()) == (413, {"error": "An upload cannot be larger than 8 MB"})
    answer = put(http, store, key, iter([bytes(limit), b"x"]))
    assert answer.status_code == 413
    assert put(http, store, key, bytes(limit)).status_code == 201
    monkeypatch.setattr(local, "_RESERVE", 1 << 60)
    answer = put(http, store, key, DATA)
    assert (answer.status_code, "no room" in answer.json()["error"]) == (507, True)
    assert (waiting(store), len(store.read(key))) == ([], limit)


def test_a_disk_that_fills_up_meanwhile_is_told(http: Any, store: LocalStore, key: str) -> None:
    put(http, store, key, DATA)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, before[1]))
    try:
        answer = put(http, store, key, iter([bytes(1 << 20)] * 6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status_code, answer.json()) == (507, {"error": "The object storage is full"})
    assert (waiting(store), store.read(key)) == ([], DATA)


def test_a_part_cannot_be_put(http: Any, store: LocalStore, key: str) -> None:
    answer = put(http, store, key, DATA, **{"Content-Range": "bytes 0-2047/4096"})
    assert (answer.status_code, "Content-Range" in answer.json()["error"]) == (400, True)


def test_an_object_is_no_folder(http: Any, store: LocalStore, key: str) -> None:
    put(http, store, key, DATA)
    assert put(http, store, key + "/below", DATA).status_code == 409
    assert put(http, store, key.rpartition("/")[0], DATA).status_code == 409
    assert waiting(store) == []


def test_no_log_holds_what_opens_a_url(http: Any, store: LocalStore, key: str, capsys: Any) -> None:
    capsys.readouterr()
    url = at(store.url_to_get(key, 60))
    http.get(url)
    http.put(at(store.url_to_put(key, 60).url), content=DATA)
    out = "".join(capsys.readouterr())
    assert "request finished" in out
    assert "token=" in out
    assert url.partition("token=")[2] not in out
    assert not re.search("[0-9a-f]{64}", out.replace(SUM, ""))
