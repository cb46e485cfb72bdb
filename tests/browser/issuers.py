"""A real issuer, and what its users do at it in their browser."""

from __future__ import annotations

import re
import socket
import subprocess

from tests.browser.programs import packages, program

AUDIENCE = "prominence-users"
RESOURCE = "https://batch.example.org"
LOGIN = f"scope=openid email groups&resource={RESOURCE}"
CLIENT = ("the-site", "a secret:with+signs%")
ERIKA, MAX = "erika", "max"
GROUP_OF_ERIKA = "fusion"


class Issuer:
    """`oidc-provider` on loopback, with open registration and one client of its own."""

    def __init__(self) -> None:
        self.place = packages()
        self.chromium = program("chromium")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [program("node"), "issuer.mjs", str(port), AUDIENCE],
            cwd=self.place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def settings(self) -> dict[str, str]:
        """What an admin sets to have this issuer's users."""
        return {
            "AIRFLOW__PROMINENCE__OIDC_ISSUER": self.url,
            "AIRFLOW__PROMINENCE__OIDC_AUDIENCE": AUDIENCE,
            "AIRFLOW__PROMINENCE__OIDC_REQUIRED_GROUP": GROUP_OF_ERIKA,
            "AIRFLOW__PROMINENCE__OIDC_LOGIN_PARAMETERS": LOGIN,
        }

    def agree(self, page: str, code: str, user: str) -> None:
        """What the user does in the browser: enter the code, sign in, agree."""
        done = subprocess.run(
            [program("node"), "agree.mjs", self.chromium, page, code, user],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout == "agreed\n", done.stderr


def asked(text: str) -> tuple[str, str] | None:
    """The page and the code that the client asks its user to go to and enter."""
    found = re.search(r"open the page (\S+) and enter the code (\S+) when requested", text)
    return (found[1], found[2]) if found else None
