"""A real SMTP server as a process of its own, which can be told to misbehave.

    python -m tests.smtpserver FOLDER PORT BEHAVIOUR

Each message that it takes becomes a file in FOLDER, with its envelope. ``BEHAVIOUR`` is one of ``well``, ``refuse``
(no such recipient), ``busy`` (try later), ``slow`` (answers a message after half a minute), ``mute`` (takes connections
and never says a word), ``login`` (wants ``post`` with a password), ``starttls`` and ``tls``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import email
import email.policy
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

PASSWORD = "the mail server's password"


class Handler:
    """Takes messages, as the behaviour says."""

    def __init__(self, folder: Path, behaviour: str) -> None:
        self.folder, self.behaviour = folder, behaviour

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if self.behaviour == "refuse":
            return "550 5.1.1 No such user here"
        if self.behaviour == "busy":
            return "451 4.3.2 Come again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.behaviour == "slow":
            await asyncio.sleep(30)
        kept = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "raw": envelope.original_content.decode("utf-8"),
        }
        partial = self.folder / f".{time.time_ns()}"
        partial.write_text(json.dumps(kept))
        partial.rename(self.folder / f"{time.time_ns()}.json")
        return "250 OK"


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody but its maker vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / ".key.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def serve(folder: Path, port: int, behaviour: str) -> None:
    """Serve until the process is ended."""
    from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

    def check(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        well = isinstance(given, LoginPassword) and (given.login, given.password) == (b"post", PASSWORD.encode())
        return AuthResult(success=well, handled=False)

    options: dict[str, Any] = {"enable_SMTPUTF8": False}
    if behaviour == "login":
        options |= {"authenticator": check, "auth_required": True, "auth_require_tls": False}
    if behaviour == "starttls":
        options |= {"tls_context": certificate(folder), "require_starttls": True}

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    loop = asyncio.get_running_loop()
    if behaviour == "mute":
        server = await asyncio.start_server(mute, "127.0.0.1", port)
    else:
        handler = Handler(folder, behaviour)
        wrapped = certificate(folder) if behaviour == "tls" else None
        server = await loop.create_server(lambda: SMTP(handler, **options), "127.0.0.1", port, ssl=wrapped)
    await server.serve_forever()


@dataclass(frozen=True)
class Taken:
    """A message as the server took it."""

    sender: str
    recipients: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        return str(self.message.get_content())


class MailServer:
    """The process, and what it has taken."""

    def __init__(self, folder: Path, behaviour: str = "well", port: int = 0) -> None:
        self.folder, self.behaviour = folder, behaviour
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def connection(self, **extra: Any) -> str:
        """It as an Airflow connection, in the form of ``AIRFLOW_CONN_…``; ``password`` and ``login`` may be given."""
        who = {key: extra.pop(key) for key in ("login", "password") if key in extra}
        more = {"disable_ssl": True, "disable_tls": True, "timeout": 5, **extra}
        return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": self.port, **who, "extra": more})

    def start(self) -> MailServer:
        argv = [sys.executable, "-m", "tests.smtpserver", str(self.folder), str(self.port), self.behaviour]
        self._process = subprocess.Popen(argv, cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert time.monotonic() < deadline, "the mail server does not listen"
            assert self._process.poll() is None, "the mail server has ended"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def taken(self) -> list[Taken]:
        """All messages so far, in their order."""
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob("[0-9]*.json"))]
        return [Taken(item["sender"], item["recipients"], _parsed(item["raw"])) for item in found]


def _parsed(raw: str) -> EmailMessage:
    message = email.message_from_string(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


@contextlib.contextmanager
def running(folder: Path, behaviour: str = "well", port: int = 0) -> Iterator[MailServer]:
    """A mail server for the time of a test."""
    server = MailServer(folder, behaviour, port)
    try:
        yield server.start()
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
