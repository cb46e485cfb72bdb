"""``/data`` as the contract says it: uploads of users and groups, and where jobs upload to (``prominence.md`` 1.3)."""

from __future__ import annotations

import calendar
import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy as sa

from airflow_prominence import documents
from airflow_prominence.objects import StoreUnavailable, object_store
from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode

NO_NAME = (400, {"error": "An object name must be specified"})


def answer_of(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def put(http: Any, url: str, data: bytes) -> Any:
    split = urlsplit(url)
    return http.put(f"{split.path}?{split.query}", content=data)


def upload(user: User, name: str, data: bytes = b"data", **more: Any) -> None:
    answer = user.post("/data/upload", json={"filename": name, "checksum": None, **more})
    assert (answer.status_code, list(answer.json())) == (201, ["url"]), answer.text
    assert put(user._http, answer.json()["url"], data).status_code == 201


def names(user: User, path: str = "") -> list[str]:
    answer = user.get(f"/data{path}")
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()]


def row_of(database: sa.Engine, key: str) -> Any:
    query = sa.text("SELECT owner, sha256, created_at, stored_at FROM prominence_upload WHERE key = :key")
    with database.connect() as connection:
        return connection.execute(query, {"key": key}).one_or_none()


def count(database: sa.Engine) -> int:
    with database.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM prominence_job")).scalar_one())


@pytest.fixture
def group() -> str:
    """A group of this test."""
    return f"g{uuid.uuid4().hex[:8]}"


@pytest.fixture
def member(http: Any) -> Callable[..., User]:
    """Make users who are in groups."""
    from airflow_prominence.api import usertokens

    def make(*groups: str, name: str | None = None) -> User:
        owner = name or f"user-{uuid.uuid4().hex[:8]}"
        return User(http, owner, usertokens.issue(owner, groups, days=1)[0])

    return make


def test_an_upload_is_announced_put_listed_and_deleted(alice: User, bob: User, database: sa.Engine) -> None:
    before = int(time.time())
    upload(alice, "data.tgz", b"hello", checksum=hashlib.sha256(b"hello").hexdigest().upper())
    upload(alice, "a file (1).sif", b"")
    [second, first] = alice.get("/data").json()
    assert (first["name"], first["size"]) == ("data.tgz", 5)
    assert (second["name"], second["size"]) == ("a file (1).sif", 0)
    at = time.strptime(first["lastModified"], "%Y-%m-%dT%H:%M:%SZ")
    assert before <= calendar.timegm(at) <= time.time()
    assert names(bob) == []
    key = f"uploads/{alice.name}/data.tgz"
    row = row_of(database, key)
    assert (row.owner, row.sha256) == (alice.name, hashlib.sha256(b"hello").hexdigest())
    assert before <= row.created_at <= row.stored_at <= time.time()
    answer = alice.delete("/data/data.tgz")
    assert (answer.status_code, answer.content) == (204, b"")
    assert names(alice) == ["a file (1).sif"]
    assert row_of(database, key).stored_at is None
    assert answer_of(alice.delete("/data/data.tgz")) == (400, {"error": "Object data.tgz does not exist"})


def test_the_url_is_where_users_reach_us_and_for_ten_minutes(alice: User) -> None:
    url = alice.post("/data/upload", json={"filename": "x"}).json()["url"]
    assert url.startswith("http://localhost:8080/api/v1/objects/uploads/")
    expires = int(url.partition("expires=")[2].partition("&")[0])
    assert 590 < expires - time.time() <= 600


def test_a_wrong_checksum_is_refused_and_what_was_there_stays(alice: User, http: Any) -> None:
    upload(alice, "x", b"old")
    body = {"filename": "x", "checksum": hashlib.sha256(b"new").hexdigest()}
    url = alice.post("/data/upload", json=body).json()["url"]
    answer = put(http, url, b"not new")
    assert (answer.status_code, "nothing was kept" in answer.json()["error"]) == (400, True)
    assert object_store().read(f"uploads/{alice.name}/x") == b"old"
    assert put(http, url, b"new").status_code == 201
    assert object_store().read(f"uploads/{alice.name}/x") == b"new"


@pytest.mark.parametrize("path", ["/data", "/data/upload"])
def test_a_name_may_be_in_the_query(alice: User, path: str) -> None:
    answer = alice.post(f"{path}?name=in%20query&checksum={'a' * 64}")
    assert answer.status_code == 201
    assert "in%20query" in answer.json()["url"]
    assert "sha256=aaaa" in answer.json()["url"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "An object name must be specified"),
        ({"filename": None}, "An object name must be specified"),
        ({"filename": ""}, "An object name must be specified"),
        ({"filename": 3}, "filename: must be a string"),
        ({"filename": "x", "checksum": 3}, "checksum: must be a string"),
        ({"filename": "x", "checksum": "zz"}, "checksum: must be a SHA-256 checksum, 64 hexadecimal digits"),
        ({"filename": ".."}, "filename: has the part '..', which is none"),
        ({"filename": "/etc/passwd"}, "filename: has the part '', which is none"),
        ({"filename": "a\tb"}, "filename: holds a control character"),
        ({"filename": "x" * 256}, "filename: has a part longer than 255 bytes"),
        ([], "The body must be a JSON object"),
    ],
)
def test_what_is_no_upload_is_refused(alice: User, body: Any, error: str) -> None:
    assert answer_of(alice.post("/data/upload", json=body)) == (400, {"error": error})
    assert names(alice) == []


def test_a_body_is_bounded(alice: User) -> None:
    assert alice.post("/data/upload", json={"filename": "x" * 70_000}).status_code == 413


def test_a_groups_uploads_are_its_members(member: Callable[..., User], group: str, database: sa.Engine) -> None:
    one, two, other = member(group), member("else", group), member(group + "c", group[:-1])
    upload(one, f"{group}/x", b"of the group")
    upload(two, f"{group}/sub/y")
    upload(two, "own")
    for path in (f"/{group}", f"/{group}/", f"//{group}"):
        assert names(one, path) == names(two, path) == [f"{group}/sub/y", f"{group}/x"]
    assert names(one, f"/{group}/sub") == names(one, f"/{group}/sub/y") == [f"{group}/sub/y"]
    assert names(one, f"/{group}/su") == []
    assert (names(one), names(two)) == ([], ["own"])
    assert row_of(database, f"uploads/@{group}/x").owner == one.name
    refused = (403, {"error": f"You are not in the group '{group}'"})
    for answer in (
        other.get(f"/data/{group}"),
        other.get(f"/data/{group}/sub"),
        other.delete(f"/data/{group}/x"),
        other.post("/data/upload", json={"filename": f"{group}/x"}),
    ):
        assert answer_of(answer) == refused
    assert two.delete(f"/data/{group}/x").status_code == 204
    assert names(one, f"/{group}") == [f"{group}/sub/y"]


def test_a_user_and_a_group_of_one_name_do_not_meet(member: Callable[..., User], group: str) -> None:
    namesake, inside = member(name=group), member(group)
    upload(namesake, "x", b"of the user")
    upload(inside, f"{group}/x", b"of the group")
    assert (names(namesake), names(inside, f"/{group}")) == (["x"], [f"{group}/x"])
    assert namesake.get(f"/data/{group}").status_code == 403
    assert namesake.post("/data/upload", json={"filename": f"{group}/x"}).status_code == 403
    for tricky in (f"@{group}", f"@{group}/x", f"..%2F@{group}%2Fx", f"x%2F..%2F@{group}"):
        assert namesake.get(f"/data/{tricky}").status_code in (400, 403)
    assert inside.delete(f"/data/{group}/x").status_code == 204
    assert names(namesake) == ["x"]


def test_one_upload_can_be_listed(alice: User, bob: User) -> None:
    upload(alice, "x")
    assert names(alice, "/x") == ["x"]
    assert answer_of(bob.get("/data/x")) == (403, {"error": "You are not in the group 'x'"})
    assert names(alice, "/") == ["x"]


@pytest.mark.parametrize("path", ["/data", "/data/"])
def test_a_name_to_delete_must_be_given(alice: User, path: str) -> None:
    assert answer_of(alice.delete(path)) == NO_NAME


def test_a_folder_is_no_upload_to_delete(member: Callable[..., User], group: str) -> None:
    user = member(group)
    upload(user, f"{group}/sub/y")
    assert answer_of(user.delete(f"/data/{group}/sub")) == (400, {"error": f"Object {group}/sub does not exist"})
    assert answer_of(user.delete(f"/data/{group}/")) == (400, {"error": "name: has the part '', which is none"})
    assert names(user, f"/{group}") == [f"{group}/sub/y"]


def test_documents_name_uploads_that_exist(member: Callable[..., User], group: str) -> None:
    from airflow_prominence.api.errors import ApiError
    from airflow_prominence.api.uploads import check_uploads, find_upload

    user = member(group)
    upload(user, "image.sif")
    upload(user, f"{group}/data.tgz", b"12345")
    found = find_upload(f"{group}/data.tgz", user.name, [group])
    assert found is not None
    assert (found.key, found.size) == (f"uploads/@{group}/data.tgz", 5)
    assert found.sha256 == hashlib.sha256(b"12345").hexdigest()

    def check(image: str, artifact: str, owner: str = user.name, **more: Any) -> str:
        task = {"image": image, "runtime": "singularity"}
        value = {**job(tasks=[task], artifacts=[{"url": artifact}]), **more}
        try:
            check_uploads([documents.parse_job(value)], owner, [group] if owner == user.name else [])
        except ApiError as refused:
            return f"{refused.status} {refused.sentence}"
        return ""

    assert check("image.sif", f"{group}/data.tgz") == ""
    assert check("busybox", "https://example.org/none.tgz") == ""
    assert check("registry.example.org/tool:1.tar-2", "image.sif") == ""
    assert check("other.tar", "image.sif") == "400 Image other.tar does not exist"
    assert check("image.sif", "none.tgz") == "400 Artifact none.tgz does not exist"
    assert check("image.sif", "image.sif", "bob") == "400 Image image.sif does not exist"
    assert check("busybox", f"{group}/data.tgz", "bob") == f"400 Artifact {group}/data.tgz does not exist"
    assert check("busybox", "a//b") == "400 Artifact a//b does not exist"
    default = {"type": "onedata", "mountpoint": "/d", "default": True, "onedata": {"provider": "p", "token": "t"}}
    assert check("image.sif", "none.tgz", storage=default) == ""


def test_a_job_is_refused_that_names_an_upload_which_is_not_there(
    member: Callable[..., User], group: str, database: sa.Engine
) -> None:
    user, other = member(group), member(group + "c", name=group)
    upload(user, "own.tgz")
    upload(user, f"{group}/shared.tgz")
    upload(other, "other.tgz")
    upload(other, f"{group}c/theirs.tgz")

    def named(name: str, sender: User = user) -> Any:
        return sender.post("/jobs", json=job(artifacts=[{"url": "own.tgz"}, {"url": name}]))

    for name in ("own.tgz", "own.tgz:data:/data", f"{group}/shared.tgz"):
        artifact, _, mountpoint = name.partition(":")
        document = job(artifacts=[{"url": artifact, **({"mountpoint": mountpoint} if mountpoint else {})}])
        assert user.post("/jobs", json=document).status_code == 201
    before = count(database)
    for name in (
        "none.tgz",
        "OWN.tgz",
        "other.tgz",
        f"{group}/other.tgz",
        f"{group}c/theirs.tgz",
        f"@{group}/shared.tgz",
        f"uploads/{user.name}/own.tgz",
        f"{group}%2Fshared.tgz",
        f"{group}//shared.tgz",
    ):
        assert answer_of(named(name)) == (400, {"error": f"Artifact {name} does not exist"}), name
    for name in (f"../{group}/other.tgz", f"{group}/../{group}c/theirs.tgz", "own.tgz\0"):
        status, body = answer_of(named(name))
        assert (status, body["error"].startswith("artifacts[1].url: ")) == (400, True), body
    assert answer_of(named("own.tgz", other)) == (400, {"error": "Artifact own.tgz does not exist"})
    user.delete("/data/own.tgz")
    assert answer_of(named("own.tgz")) == (400, {"error": "Artifact own.tgz does not exist"})
    assert count(database) == before


def test_no_path_of_a_request_leads_to_anothers_uploads(member: Callable[..., User], group: str) -> None:
    owner, thief = member(group, name=f"{group}-owner"), member(f"{group}x", name=f"{group}-own")
    upload(owner, "x", b"secret")
    upload(owner, f"{group}/y", b"secret")
    roads = (
        f"..%2F{owner.name}",
        f"../{owner.name}/x",
        f"%2e%2e/{owner.name}/x",
        f"%2F{owner.name}%2Fx",
        f"{group}x/../{group}/y",
        f"{group}x%2F..%2F@{group}%2Fy",
        f"{group}x/..%2F..%2F{owner.name}/x",
        f"@{group}/y",
        f"%40{group}%2Fy",
        f"{group}/y",
        f"{group}%00x/y",
        f"{owner.name}/x",
    )
    for road in roads:
        listed = thief.get(f"/data/{road}")
        assert listed.status_code in (400, 403, 404) or listed.json() == [], road
        assert thief.delete(f"/data/{road}").status_code in (400, 401, 403, 404, 405), road
        name = unquote(road)
        told = thief.post("/data/upload", json={"filename": name})
        assert told.status_code in (400, 403), road
    assert (names(thief), names(thief, f"/{group}x")) == ([], [])
    assert object_store().read(f"uploads/{owner.name}/x") == b"secret"
    assert object_store().read(f"uploads/@{group}/y") == b"secret"


def test_a_job_gets_urls_below_its_own_folder_only(
    alice: User, driver: Driver, node: PretendNode, http: Any, database: sa.Engine
) -> None:
    job_id = alice.submit()
    driver.claim(job_id)
    runner = node.take()
    with database.connect() as connection:
        uid = connection.execute(sa.text("SELECT uid FROM prominence_job WHERE id = :id"), {"id": job_id}).scalar_one()
    for token in (runner.assignment["job_token"], runner.assignment["token"]):
        inside = User(http, alice.name, token)
        answer = inside.post("/data/output", json={"name": f"scratch/{uid}/out.tgz"})
        assert (answer.status_code, list(answer.json())) == (201, ["url"])
        assert put(http, answer.json()["url"], b"out").status_code == 201
        assert object_store().read(f"scratch/{uid}/out.tgz") == b"out"
        for name in (
            f"scratch/{uid}",
            f"scratch/{uid}x/out",
            f"scratch/{uuid.uuid4().hex}/out",
            f"uploads/{alice.name}/out",
            "out",
        ):
            answer = inside.post("/data/output", json={"name": name})
            assert answer_of(answer) == (400, {"error": "name: is not below the job's own folder"})
        answer = inside.post("/data/output", json={"name": f"scratch/{uid}/../x"})
        assert answer_of(answer) == (400, {"error": "name: has the part '..', which is none"})
        assert answer_of(inside.post("/data/output", json={})) == NO_NAME
        assert inside.get("/data").status_code == 403
    runner.run()
    assert User(http, alice.name, runner.assignment["token"]).post("/data/output", json={}).status_code == 401


def test_a_user_is_no_job(alice: User) -> None:
    answer = alice.post("/data/output", json={"name": "scratch/x/y"})
    assert answer_of(answer) == (400, {"error": "A JWT token is required"})


def test_a_storage_that_does_not_answer_is_told(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise StoreUnavailable("connection refused at 10.0.0.1")

    monkeypatch.setattr(type(object_store()), "list", away)
    answer = alice.get("/data")
    assert answer_of(answer) == (
        503,
        {"error": "The object storage does not answer at the moment, please try again"},
    )


def test_an_upload_that_nobody_told_of_is_found_or_forgotten(alice: User, driver: Driver, database: sa.Engine) -> None:
    keys = {name: f"uploads/{alice.name}/{name}" for name in ("told", "untold", "never", "fresh")}
    upload(alice, "told")
    for name in ("untold", "never", "fresh"):
        alice.post("/data/upload", json={"filename": name})
    object_store().write(keys["untold"], b"x")
    statement = sa.text("UPDATE prominence_upload SET created_at = created_at - 90000 WHERE key = :key")
    with database.begin() as connection:
        for name in ("told", "untold", "never"):
            connection.execute(statement, {"key": keys[name]})
    told = row_of(database, keys["told"])
    assert driver.post("/maintenance").json()["settled_uploads"] == 2
    assert row_of(database, keys["told"]) == told
    assert row_of(database, keys["untold"]).sha256 == hashlib.sha256(b"x").hexdigest()
    assert row_of(database, keys["untold"]).stored_at is not None
    assert row_of(database, keys["never"]) is None
    assert row_of(database, keys["fresh"]).stored_at is None
    assert driver.post("/maintenance").json()["settled_uploads"] == 0
