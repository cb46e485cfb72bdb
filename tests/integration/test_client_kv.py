"""The key-value store with the real client, whose leading slashes differ from command to command."""

from __future__ import annotations

from tests.integration.stacks import Ended, Stack


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
