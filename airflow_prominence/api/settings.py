"""Section ``[prominence]`` of Airflow's configuration, as values; read once per process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from urllib.parse import parse_qsl

from airflow.configuration import conf

from airflow_prominence.documents import Limits

INTERNAL_PREFIX = "/prominence/internal/v1"
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
class Settings:
    """What the API needs to know; sizes in bytes, times in seconds."""

    secret: str
    prefixes: tuple[str, ...]
    public_url: str
    internal_url: str
    user_token_days: int
    stdout_limit: int
    max_body: int
    limits: Limits
    evict_after_s: float
    outage_grace_s: float
    oidc: OidcSettings | None


@functools.cache
def settings() -> Settings:
    """Return this process's settings."""
    base = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    base = base.rstrip("/")
    prefixes = tuple(
        p.strip().rstrip("/") for p in _text("api_prefixes", "/api/v1,/prominence/v1").split(",") if p.strip()
    )
    return Settings(
        secret=secret(),
        prefixes=prefixes,
        public_url=_text("public_url", "").rstrip("/") or base + prefixes[0],
        internal_url=_text("internal_url", "").rstrip("/") or base + INTERNAL_PREFIX,
        user_token_days=_number("user_token_days", 30),
        stdout_limit=_number("stdout_limit_mb", 1024) * _MB,
        max_body=_number("max_body_mb", 64) * _MB,
        limits=Limits(max_cpus=_number("max_cpus", 1024), max_nodes=_number("max_nodes", 1000)),
        evict_after_s=float(_number("evict_after_s", 45)),
        outage_grace_s=float(_number("outage_grace_s", 60)),
        oidc=_oidc(),
    )


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


def secret() -> str:
    """Return the deployment's secret from which every token's key is derived."""
    return _text("internal_secret", "") or conf.get("api_auth", "jwt_secret", fallback="") or ""


def _text(option: str, default: str) -> str:
    return conf.get("prominence", option, fallback=default) or default


def _number(option: str, default: int) -> int:
    return conf.getint("prominence", option, fallback=default)
