"""Tokens of the stack's demo users, kept until shortly before they end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from airflow_prominence import tokens
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.records import read_json, write_json
from airflow_prominence.standalone.secretfiles import USERS

_VARIABLES = dict(zip(USERS, ("PROMINENCE_TOKEN", "PROMINENCE_TOKEN2"), strict=True))
_DAYS = "30"
_RENEW_BEFORE_S = 7 * 86400


def user_tokens(places: Places, environ: Mapping[str, str]) -> dict[str, str]:
    """``PROMINENCE_TOKEN…`` of each demo user, by the stack's own settings in ``environ``."""
    # Not by `airflow prominence token`: two more starts of Airflow would be most of the way up. Here, since SQLAlchemy
    # is not for those who only ask for the status.
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    from airflow_prominence.store import usertokens

    secret = environ["AIRFLOW__PROMINENCE__INTERNAL_SECRET"] or environ["AIRFLOW__API_AUTH__JWT_SECRET"]
    ttl_s = float(environ.get("AIRFLOW__PROMINENCE__USER_TOKEN_DAYS", _DAYS)) * 86400
    path = places.secrets / "tokens.json"
    kept = read_json(path) or {}
    good = {}
    engine = create_engine(environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    try:
        with Session(engine) as session, session.begin():
            for user in USERS:
                claims = _lasting(kept.get(user), secret)
                if claims.get("sub") == user and usertokens.is_valid(session, str(claims.get("jti")), user):
                    good[user] = kept[user]
                    continue
                jti = uuid.uuid4().hex
                good[user] = tokens.mint(tokens.USER, {"sub": user, "jti": jti, "groups": []}, ttl_s, secret)
                usertokens.remember(session, jti, user, int(time.time()) + int(ttl_s))
    finally:
        engine.dispose()
    if good != kept:
        write_json(path, good)
    return {_VARIABLES[user]: good[user] for user in USERS}


def _lasting(token: object, secret: str) -> dict[str, object]:
    """The claims of a kept token that is not about to end; none of any other."""
    try:
        claims = tokens.check(str(token), tokens.USER, secret)
    except tokens.TokenRefused:
        return {}
    return claims if float(claims["exp"]) > time.time() + _RENEW_BEFORE_S else {}
