"""``airflow prominence token``."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone

from airflow_prominence.api import usertokens


def token(args: argparse.Namespace) -> None:
    if args.revoke_all:
        _revoke_all(args.user)
    elif args.revoke:
        if not usertokens.revoke(args.revoke):
            sys.exit(f"There is no token {args.revoke}: airflow prominence token --list shows those there are.")
        print(f"Token {args.revoke} is revoked.", file=sys.stderr)
    elif args.list:
        for issued in usertokens.list_tokens(args.user):
            revoked = f"  revoked {_date(issued.revoked_at)}" if issued.revoked_at else ""
            print(f"{issued.jti}  {issued.owner}  expires {_date(issued.expires_at)}{revoked}")
    elif args.user:
        try:
            bearer, jti, expires = usertokens.issue(args.user, args.groups, args.email, args.days)
        except ValueError as refused:
            sys.exit(f"{refused}.")
        print(bearer)
        print(f"Token {jti} of {args.user} expires {_date(expires)}.", file=sys.stderr)
    else:
        sys.exit("Name the user: airflow prominence token USER (or --list, or --revoke JTI).")


def _revoke_all(user: str | None) -> None:
    if not user:
        sys.exit("Name the user: airflow prominence token USER --revoke-all.")
    revoked, alive = usertokens.revoke_all(user)
    print(f"{revoked} token{'' if revoked == 1 else 's'} of {user} revoked.", file=sys.stderr)
    if alive:
        jobs = "One job of this user is" if alive == 1 else f"{alive} jobs of this user are"
        print(
            f"{jobs} not over and may still store outputs, but submit nothing and read no keys; "
            "who wants an end of them too marks their runs in Airflow as failed.",
            file=sys.stderr,
        )
    print("Logins at Airflow or at an OIDC issuer are ended there.", file=sys.stderr)


def _date(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
