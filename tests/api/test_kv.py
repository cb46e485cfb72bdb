"""``/kv`` as the contract says it: keys, values, lists, swaps (``prominence.md`` 1.4)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.conftest import User
from tests.api.node import Driver, PretendNode

NOT_SWAPPED = (400, {"error": "Atomic replacement not successful"})


def put(user: User, key: str, value: bytes = b"x", **query: Any) -> tuple[int, Any]:
    answer = user.post(f"/kv/{key}", content=value, params=query)
    return answer.status_code, answer.json()


def listed(user: User, prefix: str = "") -> list[str]:
    answer = user.get(f"/kv{prefix}?list=true")
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_a_value_is_kept_replaced_and_deleted(alice: User) -> None:
    assert put(alice, "a/b", b"one") == (201, {})
    assert put(alice, "a/b", b"two") == (201, {})
    answer = alice.get("/kv/a/b")
    assert (answer.status_code, answer.text) == (200, "two")
    for _ in range(2):
        answer = alice.delete("/kv/a/b")
        assert (answer.status_code, answer.json()) == (200, {})
    answer = alice.get("/kv/a/b")
    assert (answer.status_code, answer.json()) == (404, {"error": "No such key"})


def test_leading_slashes_do_not_count(alice: User) -> None:
    put(alice, "//a/b", b"value")
    assert [alice.get(f"/kv/{slashes}a/b").text for slashes in ("", "/", "//")] == ["value"] * 3
    assert listed(alice) == listed(alice, "/") == listed(alice, "//a") == ["/a/b"]
    alice.delete("/kv//a/b")
    assert listed(alice) == []


def test_the_same_keys_of_others_are_others(alice: User, bob: User) -> None:
    put(alice, "k", b"of alice")
    assert bob.get("/kv/k").status_code == 404
    assert put(bob, "k", b"swapped", prev="of alice") == NOT_SWAPPED
    put(bob, "k", b"of bob")
    bob.delete("/kv/?prefix=true")
    assert (alice.get("/kv/k").text, listed(alice), listed(bob)) == ("of alice", ["/k"], [])


@pytest.mark.parametrize("value", [bytes(range(256)), b"\0", b"\xff" * 16 * 1024])
def test_any_bytes_up_to_16_kb_come_back(alice: User, value: bytes) -> None:
    assert put(alice, "bytes", value) == (201, {})
    assert alice.get("/kv/bytes").content == value


def test_what_is_no_value_is_refused(alice: User) -> None:
    assert put(alice, "k", b"") == (400, {"error": "No value provided"})
    assert put(alice, "k", b"x" * (16 * 1024 + 1)) == (400, {"error": "Content of value too large"})
    assert listed(alice) == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/kv", "/kv/", "/kv//"])
def test_a_key_must_be_named(alice: User, method: str, path: str) -> None:
    answer = alice.request(method, path, content=b"x")
    assert (answer.status_code, answer.json()) == (400, {"error": "Key not specified"})


@pytest.mark.parametrize("query", ["", "?list", "?prefix"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(("key", "word"), [("a%00b", "NUL"), ("k" * 1025, "1024"), ("%C3%A9" * 513, "1024")])
def test_impossible_keys_are_refused(alice: User, method: str, key: str, word: str, query: str) -> None:
    answer = alice.request(method, f"/kv/{key}{query}", content=b"x")
    assert (answer.status_code, word in answer.json()["error"]) == (400, True)


def test_the_longest_owner_may_have_the_longest_key(new_user: Any) -> None:
    # PostgreSQL packs what goes into an index, so letters that hardly repeat.
    letters = "".join(map(chr, range(0x20000, 0x20000 + 250 + 256)))
    user, key = new_user(letters[:250]), letters[250:]
    assert put(user, key) == (201, {})
    assert listed(user) == [f"/{key}"]


def test_lists_go_by_the_presence_of_the_word(alice: User) -> None:
    for key, value in (("b", b"2"), ("a/y", b"1"), ("a/x", b"\xff"), ("ab", b"3")):
        put(alice, key, value)
    for query in ("list", "list=", "list=false"):
        assert alice.get(f"/kv/a/?{query}").json() == ["/a/x", "/a/y"]
        assert alice.get(f"/kv?{query}").json() == ["/a/x", "/a/y", "/ab", "/b"]
    for query in ("list&values", "list=true&values=false"):
        assert alice.get(f"/kv/a?{query}").json() == [{"/a/x": "\ufffd"}, {"/a/y": "1"}, {"/ab": "3"}]
    assert listed(alice, "/none") == []


def test_a_prefix_is_no_pattern(alice: User) -> None:
    for key in ("a_1", "ab1", "a%251", "a%5C1", "A_1"):
        put(alice, key)
    assert (listed(alice, "/a_"), listed(alice, "/a%25"), listed(alice, "/a%5C")) == (["/a_1"], ["/a%1"], ["/a\\1"])
    for prefix in ("a_", "a%25", "a%5C"):
        assert alice.delete(f"/kv/{prefix}?prefix=True").json() == {}
    assert listed(alice) == ["/A_1", "/ab1"]


def test_a_prefix_deletes_all_that_start_so(alice: User) -> None:
    for key in ("run/1", "run/2", "runs", "other/run/1"):
        put(alice, key)
    for query in ("prefix", "prefix=True"):
        answer = alice.delete(f"/kv/run/?{query}")
        assert (answer.status_code, answer.json()) == (200, {})
        assert listed(alice) == ["/other/run/1", "/runs"]
    alice.delete("/kv/run")
    assert listed(alice) == ["/other/run/1", "/runs"]


def test_internal_keys_are_in_no_list(alice: User) -> None:
    for key in ("_internal_/1/host/0", "a/_internal_b", "xinternaly"):
        put(alice, key)
    assert listed(alice) == ["/xinternaly"]
    assert listed(alice, "/_internal_/1") == []
    assert alice.get("/kv?list&values").json() == [{"/xinternaly": "x"}]
    assert alice.get("/kv/_internal_/1/host/0").text == "x"


def test_a_swap_needs_the_present_value(alice: User) -> None:
    assert put(alice, "k", b"2", prev="1") == NOT_SWAPPED
    assert alice.get("/kv/k").status_code == 404
    put(alice, "k", b"1")
    assert put(alice, "k", b"2", prev="1") == (201, {})
    assert put(alice, "k", b"3", prev="1") == NOT_SWAPPED
    assert alice.get("/kv/k").text == "2"


def test_an_empty_previous_value_means_none(alice: User) -> None:
    assert put(alice, "k", b"1", prev="") == (201, {})
    assert put(alice, "k", b"2", prev="") == NOT_SWAPPED
    assert alice.get("/kv/k").text == "1"


def test_a_swap_works_on_any_bytes(alice: User) -> None:
    every = bytes(range(256))
    put(alice, "k", every)
    prev = "".join(f"%{byte:02x}" for byte in every)
    answers = [alice.post(f"/kv/k?prev={prev}", content=b"new").status_code for _ in range(2)]
    assert answers == [201, 400]
    assert alice.get("/kv/k").text == "new"


@pytest.mark.parametrize("before", ["", "0"])
def test_of_swaps_at_the_same_moment_one_wins(alice: User, before: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(10):
            key = f"turn/{turn}"
            if before:
                put(alice, key, before.encode())

            def swap(mine: int, key: str = key) -> int:
                return put(alice, key, f"by {mine}".encode(), prev=before)[0]

            answers = list(pool.map(swap, range(8)))
            assert sorted(answers) == [201] + [400] * 7
            assert alice.get(f"/kv/{key}").text == f"by {answers.index(201)}"


@pytest.mark.parametrize("before", [b"", b"0"])
def test_a_swap_waits_for_one_that_is_not_committed(alice: User, before: bytes) -> None:
    from airflow_prominence._compat import create_session
    from airflow_prominence.store import kv

    if before:
        put(alice, "k", before)
    with ThreadPoolExecutor(1) as pool:
        with create_session() as session:
            if before:
                assert kv.swap(session, alice.name, "k", before, b"first")
            else:
                assert kv.create(session, alice.name, "k", b"first")
            second = pool.submit(put, alice, "k", b"second", prev=before.decode())
            with pytest.raises(TimeoutError):
                second.result(0.5)
        assert second.result(10) == NOT_SWAPPED
    assert alice.get("/kv/k").text == "first"


def test_a_jobs_token_reaches_its_owners_keys(http: Any, alice: User, bob: User) -> None:
    node, driver = PretendNode(http), Driver(http)
    driver.claim(alice.submit())
    itself = User(http, alice.name, node.take().assignment["job_token"])
    put(alice, "to/job", b"hello")
    put(bob, "of/bob")
    assert itself.get("/kv/to/job").text == "hello"
    assert put(itself, "from/job", b"done") == (201, {})
    assert alice.get("/kv/from/job").text == "done"
    assert listed(itself) == ["/from/job", "/to/job"]
    assert itself.delete("/kv/to?prefix").json() == {}
    assert listed(alice) == ["/from/job"]
    node.gone()
