"""What the triggers of one process share: the API's client, the one long-poll, and the name by which both are known."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from airflow_prominence import tokens
from airflow_prominence.driver.client import InternalClient
from airflow_prominence.driver.jobwatch import JobWatch
from airflow_prominence.driver.sharewatch import ShareWatch

INTERNAL_PATH = "/prominence/internal/v1"


@dataclass(frozen=True)
class DriverProcess:
    """The driver's share in a triggerer process."""

    holder: str
    client: InternalClient
    watch: JobWatch
    shares: ShareWatch


_current: tuple[asyncio.AbstractEventLoop, DriverProcess] | None = None


def this_process() -> DriverProcess:
    """Return what this process's triggers share (one event loop runs them all); made at the first call."""
    global _current  # One a process is the point: a second one would be a second long-poll.
    loop = asyncio.get_running_loop()
    if _current is None or _current[0] is not loop:
        holder = str(uuid.uuid4())
        client = InternalClient(internal_url(), _Minting(holder))
        _current = (loop, DriverProcess(holder, client, JobWatch(client, holder), ShareWatch(client)))
    return _current[1]


class _Minting:
    """Mints the driver's short tokens; the secret is read anew each time, so that it can be changed."""

    def __init__(self, holder: str) -> None:
        self._holder = holder

    def __call__(self, ttl_s: int) -> str:
        return tokens.mint(tokens.DRIVER, {"sub": self._holder}, ttl_s, internal_secret())


def internal_secret() -> str:
    """Return the secret from which the keys of internal tokens are derived."""
    from airflow.configuration import conf

    secret: str = conf.get("prominence", "internal_secret", fallback="") or conf.get(
        "api_auth", "jwt_secret", fallback=""
    )
    return secret


def internal_url() -> str:
    """Return the address of the internal routes as this process reaches them."""
    from airflow.configuration import conf

    explicit: str = conf.get("prominence", "internal_url", fallback="") or ""
    if explicit:
        return explicit.rstrip("/")
    public: str = conf.get("api", "base_url", fallback="") or ""
    if public:
        return public.rstrip("/") + INTERNAL_PATH
    execution: str = conf.get("core", "execution_api_server_url", fallback="") or ""
    if execution:
        parts = urlsplit(execution)
        prefix = parts.path.rstrip("/").removesuffix("/execution")
        return urlunsplit((parts.scheme, parts.netloc, prefix + INTERNAL_PATH, "", ""))
    return f"http://localhost:{conf.getint('api', 'port', fallback=8080)}{INTERNAL_PATH}"
