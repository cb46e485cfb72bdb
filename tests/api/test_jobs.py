"""``/jobs`` as the contract says it: bodies, statuses, query parameters, errors (``prominence.md`` 0, 1.1, 3)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import User, job
from tests.api.node import Driver, PretendNode


@pytest.fixture
def finished(http: Any, alice: User) -> list[int]:
    """Three finished jobs of alice, in the order in which they ended."""
    node, driver = PretendNode(http), Driver(http)
    ids = []
    for name in ("first", "second", "third"):
        ids.append(alice.submit(name=name, labels={"Shot": name}))
        driver.claim(ids[-1])
        node.take().run()
    node.gone()
    return ids


def test_a_submitted_job_is_pending_with_its_whole_description(alice: User) -> None:
    answer = alice.post("/jobs", json=job(labels={"shot": "12"}))
    assert answer.status_code == 201
    assert list(answer.json()) == ["id"]
    assert type(answer.json()["id"]) is int
    described = alice.describe(answer.json()["id"])
    assert described["status"] == "pending"
    assert described["name"] == "calculate-pi"
    assert described["resources"]["cpus"] == 1
    assert described["tasks"][0]["image"] == "busybox"
    assert described["labels"] == {"shot": "12"}
    assert type(described["events"]["createTime"]) is int
    assert "startTime" not in described["events"]


@pytest.mark.parametrize("prefix", ["/api/v1", "/prominence/v1"])
def test_both_prefixes_serve_the_same_jobs(http: Any, alice: User, prefix: str) -> None:
    job_id = alice.submit()
    other = User(http, alice.name, alice.bearer, base=prefix)
    assert other.describe(job_id)["id"] == job_id


def test_defaults_are_shown(alice: User) -> None:
    job_id = alice.submit(resources={"cpus": 1, "memory": 8.0}, tasks=[{"image": "busybox"}])
    described = alice.describe(job_id)
    assert described["tasks"][0]["runtime"] == "singularity"
    assert described["resources"]["disk"] == 10
    assert described["resources"]["nodes"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resources": {"cpus": 0, "memory": 1}}, "resources.cpus"),
        ({"resources": {"cpus": 1, "memory": 1, "gpu": 1}}, "resources.gpu"),
        ({"tasks": []}, "tasks"),
        (
            {"resources": {"cpus": 1, "memory": 1, "nodes": 2}},
            "resources.nodes: more than one node is not supported yet",
        ),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_field(alice: User, change: dict[str, Any], words: str) -> None:
    before = alice.get("/jobs?all=true").json()
    answer = alice.post("/jobs", json=job(**change))
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert alice.get("/jobs?all=true").json() == before


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"a": NaN}', b'{"name": "x", "name": "y"}', b"\xff\xfe", b"[" * 5000 + b"]" * 5000],
)
def test_what_is_no_document_is_refused_with_a_sentence(alice: User, body: bytes) -> None:
    answer = alice.post("/jobs", content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_a_body_over_the_limit_is_refused(alice: User) -> None:
    answer = alice.post("/jobs", content=b" " * (5 * 1024 * 1024))
    assert answer.status_code == 413
    assert "4 MB" in answer.json()["error"]


def test_unknown_ids_and_others_jobs_look_the_same(alice: User, bob: User) -> None:
    job_id = bob.submit()
    for asked in (job_id, 10**9, "nonsense", "1" * 30):
        assert (alice.get(f"/jobs/{asked}").status_code, alice.get(f"/jobs/{asked}").json()) == (200, [])
        for stream in ("stdout", "stderr"):
            answer = alice.get(f"/jobs/{asked}/{stream}")
            assert (answer.status_code, answer.json()) == (400, {"error": "Job does not exist"})
        answer = alice.delete(f"/jobs/{asked}")
        assert (answer.status_code, answer.json()) == (400, {"error": "No such job(s)"})
    assert bob.describe(job_id)["status"] == "pending"


def test_a_deleted_job_is_deleted_once(alice: User) -> None:
    job_id = alice.submit()
    assert (alice.delete(f"/jobs/{job_id}").status_code, alice.delete(f"/jobs/{job_id}").status_code) == (200, 400)
    described = alice.describe(job_id)
    assert (described["status"], described["statusReason"]) == ("deleted", "Job deleted by user")
    assert described["events"]["endTime"] >= described["events"]["createTime"]


def test_several_jobs_are_deleted_at_once(alice: User, bob: User) -> None:
    mine, other = [alice.submit(), alice.submit()], bob.submit()
    assert alice.delete(f"/jobs?id={mine[0]},{mine[1]},{other}").json() == {}
    assert [alice.describe(i)["status"] for i in mine] == ["deleted", "deleted"]
    assert bob.describe(other)["status"] == "pending"
    assert alice.delete("/jobs").json() == {"error": "a job id or list of job ids must be provided"}
    assert alice.delete(f"/jobs?id={mine[0]}").status_code == 400


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_job_cannot_be_changed(alice: User, method: str) -> None:
    answer = alice.request(method, f"/jobs/{alice.submit()}", json={"name": "x"})
    assert answer.status_code == 405
    assert isinstance(answer.json()["error"], str)


def ids_of(answer: Any) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()]


def test_the_plain_list_shows_active_jobs_whatever_num_says(alice: User, finished: list[int]) -> None:
    active = [alice.submit(), alice.submit()]
    assert ids_of(alice.get("/jobs?num=1")) == active
    assert ids_of(alice.get("/jobs")) == active


def test_completed_shows_the_last_one_unless_num_says_more(alice: User, finished: list[int]) -> None:
    alice.submit()
    newest_first = finished[::-1]
    assert ids_of(alice.get("/jobs?completed=true")) == newest_first[:1]
    assert ids_of(alice.get("/jobs?completed=true&num=2")) == newest_first[:2]
    assert ids_of(alice.get("/jobs?completed=true&num=-1")) == newest_first
    assert alice.get("/jobs?completed=true&num=x").status_code == 400


def test_all_shows_finished_then_active(alice: User, finished: list[int]) -> None:
    active = alice.submit()
    assert ids_of(alice.get("/jobs?all=true&num=1")) == [*finished[::-1], active]


def test_constraints_are_exact_and_all_must_hold(alice: User, finished: list[int]) -> None:
    both = alice.submit(labels={"shot": "first", "app": "x"})
    assert set(ids_of(alice.get("/jobs?all=true&constraint=shot=first"))) == {finished[0], both}
    assert ids_of(alice.get("/jobs?all=true&constraint=SHOT=first&constraint=app=x")) == [both]
    assert ids_of(alice.get("/jobs?all=true&constraint=shot=First")) == []
    assert ids_of(alice.get("/jobs?all=true&constraint=app=x&constraint=APP=y")) == []
    for bad in ("shot", "shot=a=b", "=a"):
        answer = alice.get("/jobs", params={"constraint": bad})
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid constraint"})


def test_name_status_and_id_filter(alice: User, finished: list[int]) -> None:
    active = alice.submit(name="other")
    assert ids_of(alice.get("/jobs?all=true&name=second")) == [finished[1]]
    assert ids_of(alice.get("/jobs?status=idle")) == [active]
    assert ids_of(alice.get("/jobs?status=pending")) == [active]
    assert ids_of(alice.get("/jobs?status=running")) == []
    assert ids_of(alice.get(f"/jobs?id={active},{finished[0]}")) == [finished[0], active]
    answer = alice.get("/jobs?status=nonsense")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid status specified"})


def test_summaries_and_details_differ(alice: User, finished: list[int]) -> None:
    [summary] = alice.get("/jobs?completed=true").json()
    assert set(summary) == {"id", "name", "status", "events", "tasks"}
    assert set(summary["events"]) == {"createTime", "startTime", "endTime"}
    [full] = alice.get("/jobs?completed=true&detail=true").json()
    assert full == alice.describe(finished[-1])
    assert full["execution"]["site"].startswith("site-")


def test_only_ones_own_jobs_are_listed(alice: User, bob: User, finished: list[int]) -> None:
    bob.submit()
    assert set(ids_of(alice.get("/jobs?all=true"))) == set(finished)


def test_secrets_are_not_shown_and_reach_the_agent_only(http: Any, alice: User) -> None:
    task = {
        "image": "registry.example/x",
        "runtime": "singularity",
        "cmd": "true",
        "imagePullCredential": {"username": "me", "token": "s3cr3t-t0ken"},
    }
    job_id = alice.submit(tasks=[task])
    assert "s3cr3t" not in alice.get(f"/jobs/{job_id}").text
    assert "s3cr3t" not in alice.get("/jobs").text
    node = PretendNode(http)
    Driver(http).claim(job_id)
    runner = node.take()
    assert runner.assignment["tasks"][0]["credential"] == {"username": "me", "token": "s3cr3t-t0ken"}
    node.gone()


def test_no_secret_is_in_clear_in_any_table(database: Any, alice: User) -> None:
    import sqlalchemy as sa

    credential = {"username": "me", "token": "unmistakable-secret"}
    alice.submit(tasks=[{"image": "x/y", "runtime": "singularity", "imagePullCredential": credential}])
    with database.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT t::text FROM "{name}" t')).scalars().all()
            for needle in ("unmistakable-secret", alice.bearer):
                assert not any(needle in row for row in rows), name


def test_the_same_key_and_body_give_the_same_job(alice: User, bob: User) -> None:
    first = alice.post("/jobs", json=job(), headers={"Idempotency-Key": "k"})
    again = alice.post("/jobs", json=job(), headers={"Idempotency-Key": "k"})
    assert first.json() == again.json()
    other = alice.post("/jobs", json=job(name="other"), headers={"Idempotency-Key": "k"})
    assert other.status_code == 409
    assert isinstance(other.json()["error"], str)
    assert bob.post("/jobs", json=job(), headers={"Idempotency-Key": "k"}).json() != first.json()
    assert len(alice.get("/jobs?all=true").json()) == 1


def test_twins_at_the_same_moment_make_one_job(alice: User) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: alice.post("/jobs", json=job(), headers={"Idempotency-Key": "twin"}), range(8))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(alice.get("/jobs").json()) == 1


def test_a_clone_is_the_same_document_with_its_secrets_and_another_id(http: Any, alice: User) -> None:
    credential = {"username": "me", "token": "s3cr3t-t0ken"}
    task = {"image": "registry.example/x", "runtime": "singularity", "imagePullCredential": credential}
    first = alice.submit(name="again", labels={"shot": "7"}, tasks=[task])
    alice.delete(f"/jobs/{first}")
    answer = alice.put(f"/jobs/{first}/clone")
    assert answer.status_code == 201
    second = answer.json()["id"]
    assert list(answer.json()) == ["id"]
    assert second > first
    before, after = alice.describe(first), alice.describe(second)
    assert (before["status"], after["status"]) == ("deleted", "pending")
    for key in ("name", "labels", "tasks", "resources"):
        assert after[key] == before[key]
    node = PretendNode(http)
    Driver(http).claim(second)
    assert node.take().assignment["tasks"][0]["credential"] == credential
    node.gone()


def test_only_ones_own_jobs_can_be_cloned(http: Any, alice: User, bob: User) -> None:
    mine = alice.submit()
    for user, path in ((bob, f"/jobs/{mine}/clone"), (alice, "/jobs/999999999/clone"), (alice, "/jobs/x/clone")):
        answer = user.put(path)
        assert (answer.status_code, answer.json()) == (400, {"error": "Job does not exist"})
    assert bob.get("/jobs?all=true").json() == []
    assert [item["id"] for item in alice.get("/jobs?all=true").json()] == [mine]
    node = PretendNode(http)
    Driver(http).claim(mine)
    token = node.take().assignment["job_token"]
    answer = http.put(f"/api/v1/jobs/{mine}/clone", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    node.gone()


def test_resources_are_what_sites_have_and_what_is_free(http: Any, alice: User) -> None:
    small, large = PretendNode(http, cpus=2, memory_mb=2048), PretendNode(http, cpus=8, memory_mb=16384)
    job_id = alice.submit(resources={"cpus": 4, "memory": 3})
    Driver(http).claim(job_id)
    found = [site for site in alice.get("/resources").json()["existing"] if site["site"] in (small.site, large.site)]
    assert found == [
        {"site": large.site, "capacity": {"cpus": 8, "memory": 16}, "free": {"cpus": 4, "memory": 13}},
        {"site": small.site, "capacity": {"cpus": 2, "memory": 2}, "free": {"cpus": 2, "memory": 2}},
    ]
    small.gone()
    large.gone()
    sites = [site["site"] for site in alice.get("/resources").json()["existing"]]
    assert small.site not in sites


def test_an_unknown_path_is_a_json_error(alice: User) -> None:
    answer = alice.get("/nonsense")
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("query", ["name=%00", "constraint=a%00=b", "constraint=a=%00", "name=a%00b&detail"])
def test_nul_in_a_query_is_refused(alice: User, query: str) -> None:
    answer = alice.get(f"/jobs?{query}")
    assert (answer.status_code, "NUL" in answer.json()["error"]) == (400, True)


def test_a_job_stays_in_the_queue_until_it_is_removed(
    alice: User, bob: User, driver: Driver, node: PretendNode
) -> None:
    def ids(query: str = "") -> list[int]:
        return [listed["id"] for listed in alice.get(f"/jobs?{query}").json()]

    def remove(user: User, job_id: int) -> tuple[int, Any]:
        answer = user.put(f"/jobs/{job_id}/remove")
        return answer.status_code, answer.json()

    kept = alice.submit(policies={"leaveInQueue": True})
    plain = alice.submit()
    for job_id in (kept, plain):
        driver.claim(job_id)
        node.take(job_id).run()
    active = alice.submit()
    assert ids() == [kept, active]
    assert ids("detail") == [kept, active]
    assert ids("status=idle") == [active]
    assert ids("completed=true&num=-1") == [plain, kept]
    assert ids("all=true") == [plain, kept, active]
    assert remove(bob, kept) == remove(alice, 10**9) == (400, {"error": "Job does not exist"})
    assert remove(alice, plain) == (400, {"error": "Job is no longer in the queue"})
    assert remove(alice, kept) == (200, {})
    assert ids() == [active]
    assert remove(alice, kept) == (400, {"error": "Job is no longer in the queue"})
    assert alice.describe(kept)["status"] == "completed"


def test_a_job_removed_before_its_end_leaves_the_queue_with_it(alice: User) -> None:
    job_id = alice.submit(policies={"leaveInQueue": True})
    assert alice.put(f"/jobs/{job_id}/remove").status_code == 200
    assert [listed["id"] for listed in alice.get("/jobs").json()] == [job_id]
    alice.delete(f"/jobs/{job_id}")
    assert alice.get("/jobs").json() == []
