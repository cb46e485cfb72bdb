"""Tokens of the stack's demo users, kept until shortly before they end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

import jwt

from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.records import read_json, write_json
from airflow_prominence.standalone.secretfiles import USERS

_VARIABLES = dict(zip(USERS, ("PROMINENCE_TOKEN", "PROMINENCE_TOKEN2"), strict=True))
_RENEW_BEFORE_S = 7 * 86400


def _good(token: object) -> bool:
    if not isinstance(token, str):
        return False
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        return False
    return float(claims.get("exp", 0)) > time.time() + _RENEW_BEFORE_S


def user_tokens(places: Places, environ: Mapping[str, str]) -> dict[str, str]:
    """``PROMINENCE_TOKEN…`` of each demo user, by the same command that an admin types."""
    path = places.secrets / "tokens.json"
    kept = read_json(path) or {}
    wanting = [user for user in USERS if not _good(kept.get(user))]
    # Side by side: most of the time that each takes is Airflow's import.
    commands = {
        user: subprocess.Popen(
            [sys.executable, "-m", "airflow", "prominence", "token", user],
            env=dict(environ),
            cwd=places.airflow_home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for user in wanting
    }
    for user, command in commands.items():
        out, err = command.communicate()
        lines = (err.strip() or out.strip()).splitlines()
        if command.returncode or not out.strip():
            raise StackError(f"airflow prominence token {user} failed: {lines[-1] if lines else 'no output'}")
        kept[user] = out.strip().splitlines()[-1]
    if wanting:
        write_json(path, kept)
    return {_VARIABLES[user]: kept[user] for user in USERS}
