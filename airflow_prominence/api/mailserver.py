"""The mail server that an Airflow connection of type ``smtp`` names, understood as Airflow's own e-mails do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiosmtplib
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk.exceptions import AirflowException
from starlette.concurrency import run_in_threadpool

from airflow_prominence import _compat

#: However slowly a server answers, it has let us in by then or is in trouble (seconds).
OPEN_WITHIN_S = 30.0
_QUIT_WITHIN_S = 5.0


class MailServerTrouble(Exception):
    """The mail server cannot be reached or does not let us in: no letter would fare better now."""


@dataclass(frozen=True)
class MailServer:
    """An open connection to a mail server; ``sender`` is the address its Airflow connection writes from, or empty."""

    client: aiosmtplib.SMTP
    sender: str


def exists(conn_id: str) -> bool:
    """Tell whether there is such a connection; says nothing of the server behind it."""
    return _compat.get_connection(conn_id) is not None


@asynccontextmanager
async def opened(conn_id: str) -> AsyncIterator[MailServer]:
    """Connect and log in, or raise :class:`MailServerTrouble`; says goodbye at the end."""
    try:
        server = await asyncio.wait_for(_open(conn_id), OPEN_WITHIN_S)
    except (aiosmtplib.SMTPException, OSError, asyncio.TimeoutError, ValueError) as error:
        raise MailServerTrouble(said(error)) from None
    try:
        yield server
    finally:
        with contextlib.suppress(aiosmtplib.SMTPException, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(server.client.quit(), _QUIT_WITHIN_S)
        server.client.close()


def said(error: BaseException) -> str:
    """Return what an error of a conversation with a mail server says; never holds a password."""
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return "the mail server did not answer in time"
    if isinstance(error, MailServerTrouble):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _open(conn_id: str) -> MailServer:
    hook, access_token = await run_in_threadpool(_access, conn_id)
    client = aiosmtplib.SMTP(
        hostname=hook.host or "localhost",
        port=hook.port or None,
        use_tls=hook.use_ssl,
        # Over TLS there is nothing left to start; a connection may ask for both all the same.
        start_tls=hook.smtp_starttls and not hook.use_ssl,
        validate_certs=hook.ssl_context != "none",
        timeout=hook.timeout,
        # The full name would be asked of the network.
        local_hostname=socket.gethostname(),
    )
    try:
        await client.connect()
        if access_token:
            await client.auth_xoauth2(hook.smtp_user or hook.from_email or "", access_token)
        elif hook.smtp_user and hook.smtp_password:
            await client.login(hook.smtp_user, hook.smtp_password)
    except BaseException:
        client.close()
        raise
    return MailServer(client, hook.from_email or (hook.smtp_user if "@" in hook.smtp_user else ""))


def _access(conn_id: str) -> tuple[SmtpHook, str | None]:
    """Read the connection; blocking, since a secrets backend or an issuer of access tokens may be asked."""
    hook = SmtpHook(conn_id)
    hook.smtp_connection = _compat.get_connection(conn_id)
    if hook.smtp_connection is None:
        raise MailServerTrouble(f"there is no Airflow connection {conn_id}")
    if hook.auth_type != "oauth2":
        return hook, None
    try:
        return hook, _compat.smtp_access_token(hook)
    except (AirflowException, ImportError) as error:
        raise MailServerTrouble(f"no access token for the mail server: {error}") from None
