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


def claim(port: int) -> socket.socket | None:
    """Tell other stacks that the port will be used here, as long as the answer is open; None if another told so.

    Between the choice of a port and the first listening on it lie the seconds that Airflow takes to start. The name
    belongs to the network namespace, as ports do, and ends with its holder.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(f"\0airflow-prominence-port-{port}")
    except OSError:
        claimed.close()
        return None
    return claimed


def choose(wanted: Mapping[str, int], claims: list[socket.socket] | None = None) -> dict[str, int]:
    """A port for each name, all different; ``claims`` gets what keeps other stacks from choosing them too."""
    chosen: dict[str, int] = {}
    for name, first in wanted.items():
        for port in range(first, min(first + _TRIED, 65536)):
            if port in chosen.values() or not is_free(port):
                continue
            held = claim(port)
            if held is None:
                continue
            if claims is None:
                held.close()
            else:
                claims.append(held)
            chosen[name] = port
            break
        else:
            raise StackError(f"no port from {first} to {first + _TRIED - 1} is free for the {name}: free one of them.")
    return chosen
