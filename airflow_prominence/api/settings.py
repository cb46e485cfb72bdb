"""Section ``[prominence]`` of Airflow's configuration, as values; read once per process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from urllib.parse import parse_qsl

from airflow_prominence import configuration
from airflow_prominence.configuration import days as _days
from airflow_prominence.configuration import hours as _hours
from airflow_prominence.configuration import number as _number
from airflow_prominence.configuration import text as _text
from airflow_prominence.documents import Limits
from airflow_prominence.store.retention import Retention

INTERNAL_PREFIX = configuration.INTERNAL_PREFIX
_MB = 1024 * 1024


@dataclass(frozen=True)
class OidcSettings:
    """Whose access tokens are accepted beside our own, and what is read from them."""

    issuer: str
    audience: str
    username_claim: str
    groups_claim: str
    required_group: str
    login_parameters: tuple[tuple[str, str], ...]
    client_id: str
    client_secret: str


@dataclass(frozen=True)
class SiteList:
    """Sites that an option names, ``*`` meaning all."""

    names: frozenset[str]

    def __contains__(self, site: object) -> bool:
        return "*" in self.names or site in self.names


@dataclass(frozen=True)
class MailSettings:
    """Which Airflow connection sends letters, in whose name (empty: the connection's), and for how long it is tried."""

    connection: str
    sender: str
    give_up_s: float


@dataclass(frozen=True)
class Settings:
    """What the API needs to know; sizes in bytes, times in seconds."""

    secret: str
    prefixes: tuple[str, ...]
    public_url: str
    node_url: str
    internal_url: str
    user_token_days: int
    stdout_limit: int
    max_body: int
    max_upload: int
    exec_timeout_s: float
    exec_limit: int
    snapshot_timeout_s: float
    snapshot_limit: int
    limits: Limits
    evict_after_s: float
    outage_grace_s: float
    private_network_sites: SiteList
    loopback_sites: SiteList
    b2drop_url: str
    oidc: OidcSettings | None
    mail: MailSettings
    kept: Retention


@functools.cache
def settings() -> Settings:
    """Return this process's settings."""
    return Settings(
        secret=configuration.secret(),
        prefixes=configuration.prefixes(),
        public_url=configuration.public_url(),
        node_url=configuration.node_url(),
        internal_url=configuration.internal_url(),
        user_token_days=_number("user_token_days", 30),
        stdout_limit=_number("stdout_limit_mb", 1024) * _MB,
        max_body=_number("max_body_mb", 64) * _MB,
        max_upload=_number("max_upload_mb", 51200) * _MB,
        exec_timeout_s=float(_number("exec_timeout_s", 120)),
        exec_limit=_number("exec_limit_mb", 16) * _MB,
        snapshot_timeout_s=float(_number("snapshot_timeout_s", 1800)),
        snapshot_limit=min(_number("snapshot_limit_mb", 10240), _number("max_upload_mb", 51200)) * _MB,
        limits=Limits(max_cpus=_number("max_cpus", 1024), max_nodes=_number("max_nodes", 1000)),
        evict_after_s=float(_number("evict_after_s", 45)),
        outage_grace_s=float(_number("outage_grace_s", 60)),
        private_network_sites=_sites("private_network_sites"),
        loopback_sites=_sites("loopback_sites"),
        b2drop_url=_text("b2drop_url", "https://b2drop.eudat.eu/remote.php/webdav"),
        oidc=_oidc(),
        mail=MailSettings(
            connection=_text("mail_connection", "smtp_default"),
            sender=_text("mail_from", ""),
            give_up_s=_number("mail_give_up_hours", 48) * 3600.0,
        ),
        kept=Retention(
            stdout_days=_days("keep_stdout_days", 30),
            outputs_days=_days("keep_outputs_days", 30),
            uploads_days=_days("keep_uploads_days", 180),
            jobs_days=_days("keep_jobs_days", 365),
            in_queue_days=_days("keep_in_queue_days", 90),
            warn_days=_days("warn_days", 7),
            directories_hours=_hours("keep_directories_hours", 1),
        ),
    )


def _sites(option: str) -> SiteList:
    return SiteList(frozenset(name.strip() for name in _text(option, "").split(",") if name.strip()))


def _oidc() -> OidcSettings | None:
    issuer, audience = _text("oidc_issuer", ""), _text("oidc_audience", "")
    if not issuer:
        return None
    if not audience:
        raise ValueError("[prominence] oidc_audience: must be set with oidc_issuer, or any token of it would do")
    return OidcSettings(
        issuer=issuer,
        audience=audience,
        username_claim=_text("oidc_username_claim", ""),
        groups_claim=_text("oidc_groups_claim", "groups"),
        required_group=_text("oidc_required_group", ""),
        login_parameters=_parameters("oidc_login_parameters"),
        client_id=_text("oidc_client_id", ""),
        client_secret=_text("oidc_client_secret", ""),
    )


def _parameters(option: str) -> tuple[tuple[str, str], ...]:
    text = _text(option, "")
    try:
        return tuple(parse_qsl(text, keep_blank_values=True, strict_parsing=True)) if text else ()
    except ValueError:
        raise ValueError(f"[prominence] {option}: expected name=value&name=value, as in a URL's query") from None
