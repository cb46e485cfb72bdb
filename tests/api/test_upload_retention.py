"""How long uploads are kept: from their last use, by a setting; shown, warned of, and never while a job needs them."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_prominence.objects import StoreUnavailable, object_store
from airflow_prominence.objects.keys import group_folder, user_folder
from tests.api.conftest import User
from tests.api.node import Driver, PretendNode
from tests.api.test_data import group, member, names, upload
from tests.api.test_letters import ASKED, box, empty_box, nobody_else_sends, server, with_address
from tests.api.test_retention import DAY, finished, keep, retention_of, sweep

__all__ = ["empty_box", "group", "keep", "member", "nobody_else_sends", "server"]


@pytest.fixture(autouse=True)
def no_other_uploads(database: sa.Engine) -> None:
    """Other tests' uploads and jobs are not this one's business."""
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM prominence_upload"))
        connection.execute(sa.text("DELETE FROM prominence_job"))


def age(database: sa.Engine, key: str, days: float) -> None:
    """Let all that happened to an upload be so long ago."""
    moved = ", ".join(f"{column} = {column} - :s" for column in ("created_at", "stored_at", "used_at", "warned_at"))
    with database.begin() as connection:
        done = connection.execute(
            sa.text(f"UPDATE prominence_upload SET {moved} WHERE key = :key"), {"s": days * DAY, "key": key}
        )
        assert done.rowcount == 1, key


def key_of(user: User, name: str) -> str:
    return f"{user_folder(user.name)}/{name}"


def row_exists(database: sa.Engine, key: str) -> bool:
    with database.connect() as connection:
        found = connection.execute(sa.text("SELECT 1 FROM prominence_upload WHERE key = :key"), {"key": key})
        return found.one_or_none() is not None


def using(name: str) -> dict[str, Any]:
    """What in a document names an upload."""
    return {"artifacts": [{"url": name}]}


def test_an_unused_upload_goes_after_its_time_and_not_before(alice: User, driver: Driver, database: sa.Engine) -> None:
    upload(alice, "old.tgz")
    upload(alice, "new.tgz")
    age(database, key_of(alice, "old.tgz"), 179.9)
    assert sweep(driver) == {}
    assert names(alice) == ["new.tgz", "old.tgz"]
    age(database, key_of(alice, "old.tgz"), 0.2)
    assert sweep(driver) == {"uploads_removed": 1}
    assert names(alice) == ["new.tgz"]
    assert object_store().stat(key_of(alice, "old.tgz")) is None
    assert not row_exists(database, key_of(alice, "old.tgz"))
    assert sweep(driver) == {}


def test_a_group_s_uploads_have_their_time_too(
    member: Callable[..., User], group: str, driver: Driver, database: sa.Engine
) -> None:
    anna = member(group)
    upload(anna, f"{group}/shared.tgz")
    age(database, f"{group_folder(group)}/shared.tgz", 181)
    assert sweep(driver) == {"uploads_removed": 1}
    assert names(anna, f"/{group}") == []


@pytest.mark.parametrize("days", [0, 400])
def test_how_long_is_a_setting(
    alice: User, driver: Driver, database: sa.Engine, keep: Callable[..., None], days: float
) -> None:
    keep(uploads_days=days)
    upload(alice, "kept.tgz")
    age(database, key_of(alice, "kept.tgz"), 399)
    assert sweep(driver) == {}
    [item] = alice.get("/data").json()
    assert ("keptUntil" in item) is (days != 0)


def test_lists_and_descriptions_say_until_when(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    upload(alice, "named.tgz")
    upload(alice, "unnamed.tgz")
    age(database, key_of(alice, "named.tgz"), 10)
    active = alice.submit(**using("named.tgz"))
    assert "retention" not in alice.describe(active).get("execution", {})
    alice.delete(f"/jobs/{active}")
    job_id = finished(alice, driver, node, **using("named.tgz"))
    shown = retention_of(alice, job_id)["uploads"]
    assert shown == {"named.tgz": {"until": pytest.approx(time.time() + 180 * DAY, abs=30)}}
    listed = {item["name"]: item["keptUntil"] for item in alice.get("/data").json()}
    assert list(listed) == ["named.tgz", "unnamed.tgz"]
    for until in listed.values():
        at = calendar.timegm(time.strptime(until, "%Y-%m-%dT%H:%M:%SZ"))
        assert at == pytest.approx(time.time() + 180 * DAY, abs=30)


def test_who_names_an_upload_that_is_gone_reads_nothing_of_it(alice: User, driver: Driver, node: PretendNode) -> None:
    upload(alice, "named.tgz")
    job_id = finished(alice, driver, node, **using("named.tgz"))
    alice.delete("/data/named.tgz")
    assert "uploads" not in retention_of(alice, job_id)


def test_a_job_that_names_it_begins_its_time_anew(
    alice: User, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    upload(alice, "data.tgz")
    age(database, key_of(alice, "data.tgz"), 179)
    finished(alice, driver, node, **using("data.tgz"))
    age(database, key_of(alice, "data.tgz"), 179)
    assert sweep(driver) == {}
    age(database, key_of(alice, "data.tgz"), 1.1)
    assert sweep(driver) == {"uploads_removed": 1}


def test_what_an_active_job_needs_stays(alice: User, bob: User, driver: Driver, database: sa.Engine) -> None:
    for user in (alice, bob):
        upload(user, "data.tgz")
    waiting = alice.submit(**using("data.tgz"))
    for user in (alice, bob):
        age(database, key_of(user, "data.tgz"), 181)
    assert sweep(driver) == {"uploads_removed": 1}, "bob's of the same name, which nobody needs"
    assert (names(alice), names(bob)) == (["data.tgz"], [])
    alice.delete(f"/jobs/{waiting}")
    assert sweep(driver) == {}, "it was in use until now"
    age(database, key_of(alice, "data.tgz"), 181)
    assert sweep(driver) == {"uploads_removed": 1}


def test_an_upload_that_was_announced_only_is_none_to_remove(alice: User, driver: Driver, database: sa.Engine) -> None:
    assert alice.post("/data/upload", json={"filename": "never.tgz"}).status_code == 201
    age(database, key_of(alice, "never.tgz"), 0.5)
    assert sweep(driver) == {}
    assert row_exists(database, key_of(alice, "never.tgz"))


def test_a_store_that_does_not_answer_is_asked_again(
    alice: User, driver: Driver, database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(alice, "old.tgz")
    age(database, key_of(alice, "old.tgz"), 181)

    def down(key: str) -> None:
        raise StoreUnavailable("the bucket is away")

    with monkeypatch.context() as broken:
        broken.setattr(object_store(), "delete", down)
        assert sweep(driver) == {}
    assert row_exists(database, key_of(alice, "old.tgz")), "or nobody would ever remove it"
    assert sweep(driver) == {"uploads_removed": 1}


def test_who_asked_for_letters_is_warned_once_before(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    anna = with_address(http, "anna@example.org")
    finished(anna, driver, node, notifications=ASKED)
    for name in ("one.tgz", "two.tgz", "late.tgz"):
        upload(anna, name)
    for name, days in (("one.tgz", 173.2), ("two.tgz", 172.5), ("late.tgz", 160)):
        age(database, key_of(anna, name), days)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM prominence_mail"))
    assert sweep(driver) == {"warnings_written": 1}
    [letter] = box(database)
    assert letter["recipient"] == "anna@example.org"
    assert letter["subject"] == "PROMINENCE: 2 uploads of yours will be removed soon"
    until = {item["name"]: item["keptUntil"][:10] for item in anna.get("/data").json()}
    assert f"  one.tgz: {until['one.tgz']}\n  two.tgz: {until['two.tgz']}\n" in letter["body"]
    assert "late.tgz" not in letter["body"]
    assert sweep(driver) == {}, "once"
    age(database, key_of(anna, "one.tgz"), 6.9)
    assert sweep(driver) == {}, "seven days after the warning at the earliest"
    age(database, key_of(anna, "one.tgz"), 0.2)
    assert sweep(driver) == {"uploads_removed": 1}
    assert names(anna) == ["late.tgz", "two.tgz"]


def test_a_warned_upload_that_is_used_again_is_warned_of_anew(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine
) -> None:
    server()
    anna = with_address(http, "anna@example.org")
    finished(anna, driver, node, notifications=ASKED)
    upload(anna, "data.tgz")
    age(database, key_of(anna, "data.tgz"), 174)
    assert sweep(driver) == {"warnings_written": 1}
    finished(anna, driver, node, **using("data.tgz"))
    age(database, key_of(anna, "data.tgz"), 8)
    assert sweep(driver) == {}
    age(database, key_of(anna, "data.tgz"), 166)
    assert sweep(driver) == {"warnings_written": 1}


def test_no_warnings_where_they_are_switched_off(
    server: Any, http: Any, driver: Driver, node: PretendNode, database: sa.Engine, keep: Callable[..., None]
) -> None:
    server()
    keep(warn_days=0)
    anna = with_address(http, "anna@example.org")
    finished(anna, driver, node, notifications=ASKED)
    upload(anna, "data.tgz")
    age(database, key_of(anna, "data.tgz"), 179.9)
    assert sweep(driver) == {}
    age(database, key_of(anna, "data.tgz"), 0.2)
    assert sweep(driver) == {"uploads_removed": 1}
