"""URLs of our own object routes that need no token: method, key, expiry and checksum are signed (HMAC-SHA256)."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote, urlencode

from airflow_prominence.objects.keys import check_key


class SignatureRefused(Exception):
    """The URL was not made by us, was changed, is for another method, or is over; the text says which to its holder."""


class Signer:
    """Signs and checks, with a key that is derived from the deployment's secret and serves nothing else."""

    def __init__(self, secret: str) -> None:
        if not secret:
            raise ValueError("the secret is empty: set [prominence] internal_secret or [api_auth] jwt_secret")
        self._key = hmac.new(secret.encode(), b"airflow-prominence objects v1", hashlib.sha256).digest()

    def path(self, method: str, key: str, lifetime_s: float, sha256: str | None = None) -> str:
        """Return ``<quoted key>?<query>`` for one method, good for ``lifetime_s`` seconds from now."""
        check_key(key)
        expires = str(int(time.time() + lifetime_s))
        query = {"expires": expires}
        if sha256 is not None:
            query["sha256"] = sha256
        # By this name Airflow leaves it out of its access log.
        query["token"] = self._signature(method, key, expires, sha256)
        return f"{quote(key, safe='/')}?{urlencode(query)}"

    def check(self, method: str, key: str, expires: str, sha256: str | None, signature: str) -> None:
        """Raise :class:`SignatureRefused` unless the signature is ours and its time is not over."""
        check_key(key)
        good = self._signature(method, key, expires, sha256)
        if not hmac.compare_digest(good.encode(), signature.encode(errors="replace")):
            raise SignatureRefused("The URL's signature does not fit")
        if time.time() > int(expires):
            raise SignatureRefused("The URL has expired")

    def _signature(self, method: str, key: str, expires: str, sha256: str | None) -> str:
        # No part holds a line's end: the key was checked, and what else could is no number or checksum of ours.
        signed = "\n".join((method, expires, sha256 or "", key))
        return hmac.new(self._key, signed.encode(errors="replace"), hashlib.sha256).hexdigest()
