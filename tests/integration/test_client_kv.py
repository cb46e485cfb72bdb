"""The key-value store with the real client, whose leading slashes differ from command to command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.stacks import Ended, Stack

LARGEST = 16 * 1024


def test_the_client_sets_gets_lists_and_deletes(stack: Stack) -> None:
    def kv(*arguments: str) -> Ended:
        return stack.run_cli("kv", *arguments, cwd=stack.places.home)

    for key in ("/client/a", "client/b"):
        done = kv("set", key, f"value of {key}")
        assert (done.code, done.stdout) == (0, ""), done
    assert kv("get", "client/a").stdout == kv("get", "/client/a").stdout == "value of /client/a\n"
    assert kv("list", "/client").stdout == kv("list", "client/").stdout == "/client/a\n/client/b\n"
    assert kv("delete", "/client/a").code == 0
    gone = kv("get", "/client/a")
    assert (gone.code, gone.stdout) == (1, "Error: No such key\n")
    assert kv("delete", "--prefix", "/client/").code == 0
    assert (kv("list", "/client").code, kv("list", "/client").stdout) == (0, "")
    refused = kv("set", "k" * 1025, "x")
    assert (refused.code, refused.stdout) == (1, "Error: A key cannot be longer than 1024 bytes\n")


def test_a_value_comes_from_a_file_and_may_have_16_kb(stack: Stack, tmp_path: Path) -> None:
    def kv(*arguments: str) -> Ended:
        return stack.run_cli("kv", *arguments, cwd=tmp_path)

    (tmp_path / "largest").write_text("x" * (LARGEST - 1) + "\n")
    (tmp_path / "too-large").write_text("y" * (LARGEST + 1))
    assert kv("set", "file/value", "largest").code == 0
    got = kv("get", "file/value")
    assert (got.code, got.stdout) == (0, "x" * (LARGEST - 1) + "\n\n"), "and the line break that print adds"
    refused = kv("set", "file/value", "too-large")
    assert (refused.code, refused.stdout) == (1, "Error: Content of value too large\n")
    assert kv("get", "file/value").stdout == got.stdout, "what was refused has replaced nothing"
    refused = kv("set", "file/value", "")
    assert (refused.code, refused.stdout) == (1, "Error: No value provided\n")
    assert kv("delete", "file/value").code == 0


@pytest.mark.parametrize("start", ["many/", "/many/", ""])
def test_a_prefix_is_listed_and_deleted_and_nothing_else(stack: Stack, tmp_path: Path, start: str) -> None:
    def kv(*arguments: str, token: str | None = None) -> Ended:
        return stack.run_cli("kv", *arguments, token=token or stack.other_token, cwd=tmp_path)

    with stack.client(stack.other_token) as client:
        for key in ("many/a", "//many/b", "many/c/d", "many%25", "man"):
            assert client.post(f"/kv/{key}", content="1").status_code == 201
    with stack.client() as client:
        assert client.post("/kv/many/a", content="another user's").status_code == 201
    below = ["/many/a", "/many/b", "/many/c/d"]
    everything = sorted(["/man", "/many%", *below])
    assert sorted(kv("list").stdout.split()) == everything
    assert sorted(kv("list", *([start] if start else [])).stdout.split()) == (below if start else everything)
    assert kv("delete", "--prefix", start or "/").code == 0
    assert sorted(kv("list").stdout.split()) == (["/man", "/many%"] if start else [])
    assert kv("get", "many/a", token=stack.token).stdout == "another user's\n"
    for key in ("many%", "man"):
        assert kv("delete", key).code == 0, "nor is it an error where there is none"


def test_a_value_is_swapped_only_for_the_one_it_was(stack: Stack, tmp_path: Path) -> None:
    """The client has no command for it: by plain REST, as two jobs that count together would."""
    key = "/kv//counter"
    with stack.client() as client:
        assert client.post(key, params={"prev": ""}, content="1").status_code == 201
        refused = client.post(key, params={"prev": ""}, content="1")
        assert (refused.status_code, refused.json()) == (400, {"error": "Atomic replacement not successful"})
        assert client.post(key, params={"prev": "1"}, content="2").status_code == 201
        assert client.post(key, params={"prev": "1"}, content="2").status_code == 400
    assert stack.run_cli("kv", "get", "counter", cwd=tmp_path).stdout == "2\n"
    assert stack.run_cli("kv", "delete", "/counter", cwd=tmp_path).code == 0
