"""Nobody passes without a bearer, on any route of either app, but for those public by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from airflow_prominence import tokens
from tests.api.conftest import User, job
from tests.api.node import BASE, Driver, PretendNode, secret

PREFIXES = ("/api/v1", "/prominence/v1", BASE)


def routes() -> Iterator[tuple[str, str]]:
    """Every (method, full path) of both apps, walked from the apps themselves."""
    from airflow_prominence.api.app import internal_app, public_app

    for prefixes, app in ((PREFIXES[:2], public_app()), (PREFIXES[2:], internal_app())):
        found = [(method, route.path) for route in app.routes for method in sorted(route.methods)]
        assert len(found) > 5
        for prefix in prefixes:
            for method, path in found:
                filled = path.replace("{job_id}", "1").replace("{node}", "1")
                filled = filled.replace("{workflow_id}", "1").replace("{job}", "x").replace("{instance}", "0")
                filled = filled.replace("{key:path}", "x").replace("{path:path}", "x").replace("{name:path}", "x")
                for name in ("dag_id", "run_id", "lease", "stream", "command"):
                    filled = filled.replace("{" + name + "}", "x")
                assert "{" not in filled, path
                yield method, prefix + filled


def public() -> set[tuple[str, str]]:
    from airflow_prominence.api.routes.login import PUBLIC_POSTS
    from airflow_prominence.api.routes.public import PUBLIC

    read = {(method, path) for method in ("GET", "HEAD") for path in PUBLIC}
    return {
        (method, prefix + path)
        for prefix in PREFIXES[:2]
        for method, path in read | {("POST", p) for p in PUBLIC_POSTS}
    }


def is_signed(path: str) -> bool:
    """Whether a URL's own signature is looked at instead of a bearer."""
    return any(path.startswith(f"{prefix}/objects/") for prefix in PREFIXES[:2])


def forged(audience: str, **change: Any) -> str:
    now = int(time.time())
    claims = {
        "sub": "alice",
        "jti": "x",
        "aud": audience,
        "iat": now,
        "exp": now + 60,
        "job": 1,
        "lease": "x",
        **change,
    }
    return jwt.encode(claims, "not the key but long enough for the algorithm", algorithm="HS256")


def bad_bearers(user: User) -> dict[str, str | None]:
    """Everything that must not open a door, by what is wrong with it."""
    claims = jwt.decode(user.bearer, options={"verify_signature": False})
    expired = {"sub": user.name, "jti": claims["jti"]}
    return {
        "no token": None,
        "junk": "junk",
        "empty": "",
        "expired": tokens.mint(tokens.USER, expired, -10, secret()),
        "expired driver": tokens.mint(tokens.DRIVER, {"sub": "x"}, -10, secret()),
        "expired node": tokens.mint(tokens.NODE, {"sub": "x"}, -10, secret()),
        "never issued": tokens.mint(tokens.USER, {"sub": user.name, "jti": "never"}, 60, secret()),
        "of another owner": tokens.mint(tokens.USER, {"sub": "root", "jti": claims["jti"]}, 60, secret()),
        "forged user": forged(tokens.USER),
        "forged job": forged(tokens.JOB),
        "forged node": forged(tokens.NODE),
        "forged driver": forged(tokens.DRIVER),
        "wrong audience": forged("something-else"),
        "alg none": jwt.encode(claims, None, algorithm="none"),
        "alg none, driver": jwt.encode({**claims, "aud": tokens.DRIVER}, None, algorithm="none"),
        "cut": user.bearer[:-2],
    }


def test_every_route_refuses_every_bad_bearer(http: Any, alice: User) -> None:
    http.cookies.clear()
    tried = 0
    for method, path in routes():
        for wrong, bearer in bad_bearers(alice).items():
            headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
            answer = http.request(method, path, headers=headers, json={})
            if (method, path) in public():
                # A login is answered, here that there is none; all others are well or say what isn't.
                assert answer.status_code in ((400,) if method == "POST" else (200, 204, 409)), (method, path)
                continue
            if is_signed(path) and method in ("GET", "HEAD", "PUT"):
                assert answer.status_code == 403, (method, path, answer.text)
                continue
            assert answer.status_code == 401, (method, path, wrong, answer.text)
            if method != "HEAD":
                assert answer.json()["error"].startswith("Authentication failure"), (method, path, wrong)
            tried += 1
    assert tried > 500


def test_user_tokens_do_not_open_internal_routes_nor_internal_ones_public(http: Any, alice: User) -> None:
    inside = [tokens.mint(a, {"sub": "x", "site": "x"}, 60, secret()) for a in (tokens.DRIVER, tokens.NODE)]
    for method, path in routes():
        if (method, path) in public() or is_signed(path):
            continue
        bearers = [alice.bearer] if path.startswith(BASE) else inside
        for bearer in bearers:
            answer = http.request(method, path, headers={"Authorization": f"Bearer {bearer}"}, json={})
            assert answer.status_code == 401, (method, path)


def test_a_driver_cannot_act_as_a_node_nor_a_node_as_a_driver(http: Any) -> None:
    node = PretendNode(http)
    assert node.post("/jobs/1/claim", {"holder": "x"}).status_code == 403
    assert Driver(http).post("/nodes", {"name": "x"}).status_code == 403
    node.gone()


def test_a_node_cannot_speak_for_another(http: Any) -> None:
    one, other = PretendNode(http), PretendNode(http)
    answer = one.post(f"/nodes/{other.id}/poll", {"boot": other.boot, "leases": {}, "timeout": 0})
    assert answer.status_code == 403
    one.gone()
    other.gone()


def test_a_runners_token_is_for_its_lease_only(http: Any, alice: User) -> None:
    node, driver = PretendNode(http), Driver(http)
    for _ in range(2):
        driver.claim(alice.submit())
    first, second = node.poll()["start"]
    headers = {"Authorization": f"Bearer {first['token']}"}
    path = f"{BASE}/leases/{second['lease']}/reports"
    assert http.post(path, json={"reports": []}, headers=headers).status_code == 403
    node.gone()


def test_what_a_job_gets_cannot_report_for_it(http: Any, alice: User) -> None:
    node, driver = PretendNode(http), Driver(http)
    job_id = alice.submit()
    driver.claim(job_id)
    [given] = node.poll()["start"]
    headers = {"Authorization": f"Bearer {given['job_token']}"}
    lie = {"seq": 1, "time": time.time(), "kind": "end", "data": {"status": "completed", "node_success": True}}
    path = f"{BASE}/leases/{given['lease']}"
    assert http.post(f"{path}/reports", json={"reports": [lie]}, headers=headers).status_code == 403
    assert http.put(f"{path}/streams/stdout?offset=0", content=b"x", headers=headers).status_code == 403
    assert alice.describe(job_id)["status"] == "pending"
    itself = User(http, alice.name, given["job_token"])
    assert itself.describe(job_id)["id"] == job_id
    node.gone()


def test_a_revoked_token_is_refused_at_once(http: Any, alice: User) -> None:
    from airflow_prominence.api import usertokens

    assert alice.get("/jobs").status_code == 200
    [issued] = usertokens.list_tokens(alice.name)
    assert usertokens.revoke(issued.jti)
    assert alice.get("/jobs").status_code == 401
    assert not usertokens.revoke("no such token")


def test_revoking_one_token_leaves_the_jobs_theirs(http: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api import usertokens

    mine, itself = running_job(http, alice, driver, node)
    [issued] = usertokens.list_tokens(alice.name)
    assert usertokens.revoke(issued.jti)
    assert itself.describe(mine)["id"] == mine
    assert itself.submit() > mine


def test_when_all_are_revoked_a_users_jobs_can_only_store_outputs(
    http: Any, new_user: Any, driver: Driver, database: Any
) -> None:
    from airflow_prominence.api import usertokens

    node = PretendNode(http, cpus=16, memory_mb=16384)
    anna, bert = new_user(), new_user()
    second = User(http, anna.name, usertokens.issue(anna.name, days=1)[0])
    mine, itself = running_job(http, anna, driver, node)
    child = itself.submit()
    _, another = running_job(http, bert, driver, node)
    assert usertokens.revoke_all(anna.name) == (2, 2)
    for user in (anna, second):
        assert user.get("/jobs").status_code == 401
    refused = {"error": "Authentication failure: all tokens of the job's owner were revoked"}
    for method, path in (
        ("POST", "/jobs"),
        ("GET", "/jobs"),
        ("GET", f"/jobs/{mine}"),
        ("GET", "/kv"),
        ("POST", "/kv/x"),
    ):
        answer = itself.request(method, path, json={})
        assert (answer.status_code, answer.json()) == (401, refused), (method, path)
    # what runs comes to its end, and loses nothing
    with database.connect() as connection:
        uid = connection.exec_driver_sql(f"SELECT uid FROM prominence_job WHERE id = {mine}").scalar_one()
    assert itself.post("/data/output", json={"name": f"scratch/{uid}/out"}).status_code == 201
    # nor does what waited have any more when it comes to run
    driver.claim(child)
    late = User(http, anna.name, node.take(child).assignment["job_token"])
    assert late.post("/jobs", json=job()).status_code == 401
    assert another.submit() > child, "another user's are not touched"
    # who is let in again begins anew
    again = User(http, anna.name, usertokens.issue(anna.name, days=1)[0])
    new, itself_again = running_job(http, again, driver, node)
    assert itself_again.submit() > new
    assert itself.post("/jobs", json=job()).status_code == 401
    assert usertokens.revoke_all(anna.name)[0] == 1
    assert itself_again.post("/jobs", json=job()).status_code == 401
    node.gone()


@pytest.mark.parametrize("who", ["user", "job"])
def test_nobody_slips_through_while_all_are_being_revoked(
    http: Any, new_user: Any, driver: Driver, node: PretendNode, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """A request that was let in just before is looked at again where its job would be made."""
    from airflow_prominence.api import submission, usertokens

    anna = new_user()
    mine, itself = running_job(http, anna, driver, node)
    real = submission.prepare

    def prepare(value: object, owner: Any) -> Any:
        usertokens.revoke_all(anna.name)
        return real(value, owner)

    monkeypatch.setattr(submission, "prepare", prepare)
    answer = (anna if who == "user" else itself).post("/jobs", json=job())
    assert answer.status_code == 401, answer.text
    monkeypatch.undo()
    again = User(http, anna.name, usertokens.issue(anna.name, days=1)[0])
    assert [item["id"] for item in again.get("/jobs?all=true").json()] == [mine]


def test_revoking_all_waits_for_who_is_submitting(new_user: Any) -> None:
    """So that a job which is being made at that moment has an id that counts."""
    from airflow_prominence.api import usertokens
    from airflow_prominence.api.database import transact
    from airflow_prominence.store import usertokens as store

    anna, bert = new_user(), new_user()
    done = threading.Event()

    def revoke() -> None:
        usertokens.revoke_all(anna.name)
        done.set()

    def submitting(session: Any) -> None:
        store.hold(session, anna.name)
        thread.start()
        assert not done.wait(1)
        usertokens.revoke_all(bert.name)

    thread = threading.Thread(target=revoke)
    transact(submitting)
    assert done.wait(10)
    thread.join()


def test_a_user_token_is_what_the_real_client_wants(alice: User) -> None:
    """It reads ``exp`` without verifying and needs an ``alg`` in the header (``prominence.md`` 0.1, 6.1)."""
    claims = jwt.decode(alice.bearer, options={"verify_signature": False})
    assert claims["exp"] > time.time()
    assert jwt.get_unverified_header(alice.bearer)["alg"] == "HS256"


def running_job(http: Any, user: User, driver: Driver, node: PretendNode) -> tuple[int, User]:
    """A job on a node, and who it is by the token that its tasks get."""
    job_id = user.submit()
    driver.claim(job_id)
    return job_id, User(http, user.name, node.take(job_id).assignment["job_token"])


def test_a_job_token_describes_its_own_job_only(http: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    other = alice.submit()
    mine, itself = running_job(http, alice, driver, node)
    assert [item["id"] for item in itself.get("/jobs?all=true").json()] == [mine]
    assert itself.get("/jobs", params={"id": str(other)}).json() == []
    assert itself.describe(mine)["id"] == mine
    assert itself.get(f"/jobs/{other}").json() == []


def test_a_job_submits_jobs_for_its_owner(http: Any, driver: Driver, node: PretendNode) -> None:
    from airflow_prominence.api import usertokens

    owner = User(http, "boss", usertokens.issue("boss", ["lab"], "boss@example.org", days=1)[0])
    mine, itself = running_job(http, owner, driver, node)
    child = itself.submit(name="child")
    assert owner.describe(child)["name"] == "child"
    assert driver.view(child)["owner"] == "boss"
    assert driver.view(child)["events"][0]["message"] == f"Submitted by job {mine} as child"
    assert itself.get(f"/jobs/{child}").json() == [], "it has no eyes for what it made"
    assert itself.delete(f"/jobs/{child}").status_code == 403

    from airflow_prominence.api.database import transact
    from airflow_prominence.store.tables import Job

    def whose(session: Any) -> tuple[Any, ...]:
        made = session.get_one(Job, child)
        return made.owner, made.owner_groups, made.email

    assert transact(whose) == ("boss", ["lab"], "boss@example.org")


def test_a_job_token_opens_what_is_listed_and_nothing_else(
    http: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    from airflow_prominence.api.app import public_app

    mine, itself = running_job(http, alice, driver, node)
    runner = User(http, alice.name, node_token_of(node, mine))
    opened = {
        ("POST", "/jobs"),
        ("POST", "/workflows"),
        ("GET", "/jobs"),
        ("GET", "/jobs/{job_id}"),
        ("GET", "/kv"),
        ("GET", "/kv/{key:path}"),
        ("POST", "/kv/{key:path}"),
        ("DELETE", "/kv/{key:path}"),
        ("POST", "/data/output"),
    }
    tried = 0
    for route in public_app().routes:
        path = route.path.replace("{job_id}", str(mine))  # type: ignore[attr-defined]
        for name in ("key:path", "path:path", "name:path", "name", "path", "workflow_id", "job", "instance"):
            path = path.replace("{" + name + "}", "x")
        assert "{" not in path, path
        for method in route.methods:  # type: ignore[attr-defined]
            full = "/api/v1" + path
            if (method, full) in public() or path.startswith("/objects/"):
                continue
            for caller in (itself, runner):
                answer = caller.request(method, path, json={})
                shut = (method, route.path) not in opened  # type: ignore[attr-defined]
                assert (answer.status_code == 403) is shut, (method, path, answer.text)
                tried += 1
    assert tried > 60
    assert alice.describe(mine)["status"] == "pending", "not even itself can it delete"


def node_token_of(node: PretendNode, job_id: int) -> str:
    """The token of the job's runner, which is one of the job's too."""
    [lease] = node.held
    claims = {"sub": "x", "groups": [], "job": job_id, "attempt": 1, "lease": lease}
    return tokens.mint(tokens.JOB, claims, 60, secret())


def test_a_job_token_reaches_its_owners_keys(http: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    _, itself = running_job(http, alice, driver, node)
    assert itself.post("/kv/a/b", content=b"from inside").status_code == 201
    assert alice.get("/kv/a/b").content == b"from inside"
    assert itself.get("/kv/?list").json() == ["/a/b"]
    assert itself.delete("/kv/a/b").status_code == 200


@pytest.mark.parametrize("end", ["completed", "deleted", "retried"])
def test_a_job_token_dies_with_its_attempt(http: Any, alice: User, driver: Driver, node: PretendNode, end: str) -> None:
    job_id = alice.submit(policies={"maximumRetries": 1} if end == "retried" else {})
    driver.claim(job_id)
    runner = node.take()
    itself = User(http, alice.name, runner.assignment["job_token"])
    assert itself.get("/jobs").status_code == 200
    if end == "deleted":
        alice.delete(f"/jobs/{job_id}")
    else:
        runner.run(exit_code=1 if end == "retried" else 0)
    for method, path, body in (
        ("GET", "/jobs", None),
        ("POST", "/jobs", job()),
        ("POST", "/kv/k", 1),
        ("POST", "/data/output", {"name": "x"}),
    ):
        answer = itself.request(method, path, json=body)
        assert answer.status_code == 401, (method, path)
        assert answer.json()["error"] == "Authentication failure: the job's attempt is over"


@pytest.fixture
def airflow_user(http: Any) -> Callable[[str], User]:
    """Users with a JWT of Airflow's own auth manager."""

    def make(name: str) -> User:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        role = {"carol": "user", "viewer": "viewer", "admin": "admin"}[name]
        return User(http, name, get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role)))

    return make


def test_an_airflow_jwt_works(airflow_user: Callable[[str], User]) -> None:
    carol = airflow_user("carol")
    job_id = carol.submit()
    assert carol.describe(job_id)["id"] == job_id


def test_an_airflow_viewer_may_look_but_not_act(airflow_user: Callable[[str], User]) -> None:
    viewer = airflow_user("viewer")
    assert viewer.get("/jobs").status_code == 200
    acts = [("POST", "/jobs", job()), ("POST", "/kv/k", 1), ("DELETE", "/kv/k", None)]
    acts += [("POST", "/jobs/1/exec?command=ls", None), ("PUT", "/jobs/1/snapshot?path=x", None)]
    for method, path, body in acts:
        answer = viewer.request(method, path, json=body)
        assert (answer.status_code, list(answer.json())) == (403, ["error"]), path
    assert viewer.get("/kv?list").json() == []


def test_no_bearer_is_logged(http: Any, alice: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        alice.submit()
        alice.get("/jobs/1/stdout")
        http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {alice.bearer[:-1]}"})
    assert alice.bearer[:-1] not in caplog.text
