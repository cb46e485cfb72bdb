"""The stack's own secrets: made once, kept in files that only their owner can read."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_prominence.standalone.records import read_json, write_json

ADMIN = "admin"
USERS = ("demo", "demo2")


@dataclass(frozen=True)
class Secrets:
    fernet_key: str
    jwt_secret: str
    api_secret_key: str
    internal_secret: str
    database_password: str
    passwords: dict[str, str]

    @property
    def passwords_json(self) -> str:
        return json.dumps(self.passwords) + "\n"


def load(folder: Path) -> Secrets:
    """Read the secrets, making those that are missing."""
    path = folder / "secrets.json"
    kept = read_json(path) or {}
    values: dict[str, Any] = {
        "fernet_key": kept.get("fernet_key") or base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        **{
            name: kept.get(name) or secrets.token_urlsafe(48)
            for name in ("jwt_secret", "api_secret_key", "internal_secret")
        },
        "database_password": kept.get("database_password") or secrets.token_urlsafe(24),
        "passwords": {
            user: kept.get("passwords", {}).get(user) or secrets.token_urlsafe(9) for user in (ADMIN, *USERS)
        },
    }
    if values != kept:
        write_json(path, values)
    return Secrets(**values)
