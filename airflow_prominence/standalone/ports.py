"""Free loopback ports: the wanted one, or the next that nobody listens on."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from airflow_prominence.standalone.errors import StackError

_TRIED = 200


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, on loopback or on all addresses (a mere TIME_WAIT does not count)."""
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - asked, never served
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def choose(wanted: Mapping[str, int]) -> dict[str, int]:
    """A port for each name, all different."""
    chosen: dict[str, int] = {}
    for name, first in wanted.items():
        for port in range(first, min(first + _TRIED, 65536)):
            if port not in chosen.values() and is_free(port):
                chosen[name] = port
                break
        else:
            raise StackError(f"no port from {first} to {first + _TRIED - 1} is free for the {name}: free one of them.")
    return chosen
