"""Both object stores keep one contract: a folder of the API's and a bucket of a real S3 server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from airflow_prominence.commands.storage import bucket_problems
from airflow_prominence.objects import (
    BadKey,
    ChecksumMismatch,
    NoSuchObject,
    ObjectStore,
    PutTarget,
    StoreUnavailable,
    object_store,
    store_of,
)
from airflow_prominence.objects.settings import StorageSettings, parse_place
from tests.api.conftest import User
from tests.s3 import READ_KEY, READ_SECRET, S3Server

BUCKET = "prominence"
DATA = os.urandom(1000)
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def s3(database: Any) -> Iterator[S3Server]:
    """A server with a bucket, and Airflow connections: a good one, a read-only one and one with a wrong secret."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    server = S3Server()
    connections = {
        "store_all": server.connection(),
        "store_read": server.connection(READ_KEY, READ_SECRET),
        "store_wrong": server.connection(secret="not the secret"),
    }
    try:
        server.start()
        server.make_bucket(BUCKET)
        with create_session() as session:
            for name, given in connections.items():
                session.add(Connection(conn_id=name, **{**given, "extra": json.dumps(given["extra"])}))
        yield server
    finally:
        server.remove()


def bucket(connection: str, prefix: str = "batch", endpoint: str = "") -> ObjectStore:
    return store_of(stored_at(f"s3://{connection}@{BUCKET}/{prefix}", endpoint))


def stored_at(place: str, endpoint: str = "") -> StorageSettings:
    return StorageSettings(parse_place(place), endpoint, "https://users/api/v1", "https://nodes/api/v1", "secret")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, http: Any) -> ObjectStore:
    if request.param == "folder":
        return object_store()
    request.getfixturevalue("s3")
    return bucket("store_all")


@pytest.fixture
def folder() -> str:
    """A folder of this test."""
    return f"scratch/{uuid.uuid4().hex}"


class Outside:
    """Who has only URLs: to the API of this process, or to the bucket by the network."""

    def __init__(self, http: Any) -> None:
        self._http = http

    def ask(self, method: str, url: str, **more: Any) -> Any:
        if url.startswith("http://localhost:8080/"):
            split = urlsplit(url)
            return self._http.request(method, f"{split.path}?{split.query}", **more)
        return httpx.request(method, url, trust_env=False, **more)

    def get(self, url: str, **headers: str) -> Any:
        return self.ask("GET", url, headers=headers)

    def put(self, target: PutTarget, data: bytes) -> Any:
        if target.fields is None:
            return self.ask("PUT", target.url, content=data)
        return self.ask("POST", target.url, data=dict(target.fields), files={"file": ("x", data)})


@pytest.fixture
def outside(http: Any) -> Outside:
    return Outside(http)


def test_what_is_written_is_there(store: ObjectStore, folder: str) -> None:
    key = f"{folder}/ä b%2F+&=@.tgz"
    before = time.time()
    info = store.write(key, DATA)
    assert (info.key, info.size, info.sha256) == (key, 1000, SUM)
    assert before - 2 < info.modified < time.time() + 2
    found = store.stat(key)
    assert found is not None
    assert (found.size, found.sha256, int(found.modified)) == (1000, SUM, int(info.modified))
    assert (store.read(key), store.read(key, 990), store.read(key, 10, 5)) == (DATA, DATA[990:], DATA[10:15])
    assert store.read(key, 2000) == b""
    store.write(key, b"longer than it was" * 100)
    assert store.read(key) == b"longer than it was" * 100
    store.delete(key)
    store.delete(key)
    assert store.stat(key) is None
    with pytest.raises(NoSuchObject):
        store.read(key)


def test_files_large_and_empty_are_written(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 20 + b"end")
    with large.open("rb") as file:
        info = store.write(f"{folder}/large", file)
    with large.open("rb") as file:
        assert info.sha256 == hashlib.file_digest(file, "sha256").hexdigest()
    assert (info.size, store.read(f"{folder}/large", 20 << 20)) == ((20 << 20) + 3, b"end")
    with store.open_read(f"{folder}/large") as kept:
        kept.seek(5 << 20)
        assert kept.read(16) == large.read_bytes()[5 << 20 :][:16]
    assert store.write(f"{folder}/empty", b"").size == store.write(f"{folder}/nothing", io.BytesIO(b"")).size == 0
    assert store.read(f"{folder}/empty") == store.read(f"{folder}/nothing") == b""


@pytest.mark.parametrize("size", [1000, 20 << 20])
def test_a_wrong_checksum_keeps_what_was_there(store: ObjectStore, folder: str, size: int) -> None:
    store.write(f"{folder}/x", DATA)
    other = os.urandom(1000) * (size // 1000)
    for data in (other, io.BytesIO(other)):
        with pytest.raises(ChecksumMismatch):
            store.write(f"{folder}/x", data, SUM)
    assert store.read(f"{folder}/x") == DATA
    store.write(f"{folder}/x", io.BytesIO(other), hashlib.sha256(other).hexdigest())
    found = store.stat(f"{folder}/x")
    assert found is not None
    assert (found.size, found.sha256) == (len(other), hashlib.sha256(other).hexdigest())


def test_a_prefix_is_a_folder(store: ObjectStore, folder: str) -> None:
    for name in ("ab/1", "ab/c/2", "abc/3", "ab.4"):
        store.write(f"{folder}/{name}", DATA)
    for prefix in ("ab", "ab/"):
        found = store.list(f"{folder}/{prefix}")
        assert [(info.key, info.size) for info in found] == [(f"{folder}/ab/1", 1000), (f"{folder}/ab/c/2", 1000)]
    store.delete_below(f"{folder}/ab")
    assert [info.key for info in store.list(folder)] == [f"{folder}/ab.4", f"{folder}/abc/3"]
    assert store.list(f"{folder}/none") == []
    store.delete_below(folder)
    assert store.list(folder) == []


@pytest.mark.parametrize("key", ["", "a//b", "../x", "a/../b", "/a", "a\0b", "x" * 256])
def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    for act in (lambda: store.stat(key), lambda: store.url_to_get(key, 60), lambda: store.write(key, b"")):
        with pytest.raises(BadKey):
            act()


def test_urls_need_no_token(store: ObjectStore, folder: str, outside: Outside) -> None:
    # No percent sign: this client takes it for one of the URL's own.
    key = f"{folder}/ä b+&=@.tgz"
    assert outside.put(store.url_to_put(key, 60), DATA).status_code in (200, 201)
    url = store.url_to_get(key, 60)
    assert outside.get(url).content == DATA
    part = outside.get(url, Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, DATA[10:20])
    assert outside.put(store.url_to_put(key, 60), b"").status_code in (200, 201)
    assert outside.get(url).content == b""


def test_a_url_is_for_its_method_key_and_time(store: ObjectStore, folder: str, outside: Outside) -> None:
    store.write(f"{folder}/x", DATA)
    store.write(f"{folder}/y", b"other")
    url = store.url_to_get(f"{folder}/x", 60)
    assert outside.ask("PUT", url, content=b"changed").status_code == 403
    assert outside.ask("DELETE", url).status_code in (401, 403)
    assert outside.get(url.replace(f"{folder}/x", f"{folder}/y")).status_code == 403
    assert outside.get(url.partition("?")[0]).status_code == 403
    assert outside.get(store.url_to_put(f"{folder}/x", 60).url).status_code == 403
    short = store.url_to_get(f"{folder}/x", 1)
    time.sleep(3)
    assert outside.get(short).status_code == 403
    assert store.read(f"{folder}/x") == DATA
    assert outside.get(store.url_to_get(f"{folder}/none", 60)).status_code == 404


def test_an_upload_is_verified(store: ObjectStore, folder: str, outside: Outside) -> None:
    target = store.url_to_put(f"{folder}/x", 60, SUM)
    assert outside.put(target, DATA + b"!").status_code == 400
    assert store.stat(f"{folder}/x") is None
    assert outside.put(target, DATA).status_code in (201, 204)
    found = store.stat(f"{folder}/x")
    assert found is not None
    assert (found.size, found.sha256) == (1000, SUM)


def test_a_form_cannot_be_changed(s3: S3Server, folder: str, outside: Outside) -> None:
    target = bucket("store_all").url_to_put(f"{folder}/x", 60, SUM)
    assert target.fields is not None
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for change in ({"key": f"batch/{folder}/y"}, {"x-amz-checksum-sha256": other}):
        assert outside.put(PutTarget(target.url, {**target.fields, **change}), b"other").status_code == 403
    assert bucket("store_all").list(folder) == []


def test_a_prefix_keeps_deployments_apart(s3: S3Server, folder: str) -> None:
    one, other, root = bucket("store_all", "one"), bucket("store_all", "other/"), bucket("store_all", "")
    one.write(f"{folder}/x", DATA)
    assert other.stat(f"{folder}/x") is None
    assert root.read(f"one/{folder}/x") == DATA


def test_a_lifetime_longer_than_s3_allows_is_cut(s3: S3Server, folder: str, outside: Outside) -> None:
    store = bucket("store_all")
    store.write(f"{folder}/x", DATA)
    url = store.url_to_get(f"{folder}/x", 10 * 86400)
    assert "X-Amz-Expires=604800" in url
    assert outside.get(url).content == DATA


def test_urls_may_have_another_address_than_ours(s3: S3Server, folder: str) -> None:
    store = bucket("store_all", endpoint="https://s3.example.org")
    store.write(f"{folder}/x", DATA)
    assert store.url_to_get(f"{folder}/x", 60).startswith(f"https://s3.example.org/{BUCKET}/batch/{folder}/x?")
    assert store.url_to_put(f"{folder}/x", 60, SUM).url.startswith("https://s3.example.org/")


def test_a_wrong_key_is_refused(s3: S3Server, folder: str, outside: Outside) -> None:
    wrong = bucket("store_wrong")
    for act in (
        lambda: wrong.stat(f"{folder}/x"),
        lambda: wrong.list(folder),
        lambda: wrong.read(f"{folder}/x"),
        lambda: wrong.write(f"{folder}/x", DATA),
        lambda: wrong.delete(f"{folder}/x"),
    ):
        with pytest.raises(StoreUnavailable) as refused:
            act()
        assert "not the secret" not in str(refused.value)
    assert outside.put(wrong.url_to_put(f"{folder}/x", 60), DATA).status_code == 403
    assert outside.put(wrong.url_to_put(f"{folder}/x", 60, SUM), DATA).status_code == 403
    assert bucket("store_all").list(folder) == []


def test_a_key_that_may_only_read_writes_nothing(s3: S3Server, folder: str, outside: Outside) -> None:
    bucket("store_all").write(f"{folder}/x", DATA)
    reader = bucket("store_read")
    assert reader.read(f"{folder}/x") == DATA
    with pytest.raises(StoreUnavailable):
        reader.write(f"{folder}/x", b"changed")
    assert outside.put(reader.url_to_put(f"{folder}/x", 60), b"changed").status_code == 403
    assert outside.get(reader.url_to_get(f"{folder}/x", 60)).content == DATA


def test_a_connection_that_is_not_there_is_told(s3: S3Server) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_connection"):
        bucket("no_such_connection").list("uploads")


def test_check_config_says_why_a_bucket_cannot_be_used(s3: S3Server) -> None:
    assert list(bucket_problems(stored_at(f"s3://store_all@{BUCKET}/batch"))) == []
    for place in (f"store_wrong@{BUCKET}", "store_all@no-such-bucket", f"no_such_connection@{BUCKET}"):
        [problem] = bucket_problems(stored_at(f"s3://{place}"))
        assert problem.startswith("[prominence] object_storage: the bucket does not answer (")
        assert problem.endswith(": mend the option, or the Airflow connection that it names.")
        assert "not the secret" not in problem


def test_the_routes_work_on_a_bucket(
    s3: S3Server, alice: User, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket("store_all")
    for module in ("routes.data", "routes.objects", "uploads"):
        monkeypatch.setattr(f"airflow_prominence.api.{module}.object_store", lambda: store)
    told = alice.post("/data/upload", json={"filename": "x", "checksum": SUM}).json()
    assert set(told) == {"url", "fields"}
    assert outside.put(PutTarget(**told), DATA).status_code == 204
    [listed] = alice.get("/data").json()
    assert (listed["name"], listed["size"]) == ("x", 1000)
    told = alice.post("/data/upload", json={"filename": "y", "checksum": None}).json()
    assert set(told) == {"url"}
    assert outside.put(PutTarget(**told), DATA).status_code == 200
    assert alice.delete("/data/y").status_code == 204
    assert [item["name"] for item in alice.get("/data").json()] == ["x"]
    answer = alice._http.get("/api/v1/objects/uploads/x?expires=1&token=1")
    assert (answer.status_code, answer.json()) == (400, {"error": "Objects are not kept here"})
    wrong = bucket("store_wrong")
    monkeypatch.setattr("airflow_prominence.api.routes.data.object_store", lambda: wrong)
    answer = alice.get("/data")
    assert (answer.status_code, answer.json()["error"].startswith("The object storage does not answer")) == (503, True)


def test_a_server_that_is_away_is_told_and_waited_for(database: Any, http: Any) -> None:
    from airflow.models import Connection
    from airflow.utils.session import create_session

    server = S3Server()
    try:
        server.start()
        server.make_bucket(BUCKET)
        given = server.connection()
        with create_session() as session:
            session.add(Connection(conn_id="store_away", **{**given, "extra": json.dumps(given["extra"])}))
        store = bucket("store_away")
        store.write("scratch/x/y", DATA)
        server.stop()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.stat("scratch/x/y")
        assert time.monotonic() - began < 20
        server.start()
        assert store.read("scratch/x/y") == DATA
    finally:
        server.remove()
