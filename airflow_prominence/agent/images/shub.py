"""Names of Singularity Hub (`shub://user/repo:tag`), which also other registries of that kind serve by name."""

import json
import re
import urllib.error
from http.client import HTTPException
from typing import Sequence

from .download import Again, Download, host_of
from .model import PullError
from .reference import is_loopback

HUB = "singularity-hub.org"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(
    rf"shub://(?:(?P<host>{_PART}(?::[0-9]{{1,5}})?)/)?(?P<path>{_PART}/{_PART})(?P<tag>:{_PART})?(?P<version>@[0-9a-f]+)?"
)
_CLOSED = "Singularity Hub closed in 2021: give the URL of the image file, upload it, or name another registry"


def locate(name: str, download: Download, insecure: Sequence[str]) -> str:
    """The URL of the image file that the registry gives for a name. Raises PullError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise PullError(f"image: {name!r} is not shub://[host/]user/repository[:tag]")
    host = found["host"] or HUB
    scheme = "http" if host in insecure or is_loopback(host) else "https"
    url = f"{scheme}://{host}/api/container/{found['path']}{found['tag'] or ':latest'}{found['version'] or ''}"

    def once() -> str:
        try:
            with download.open(url, {"Accept": "application/json"}) as answer:
                document = json.loads(answer.read(1 << 20))
                image = document["image"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    raise PullError(f"image: {name} was not found at {host}") from error
                raise PullError(f"image: {name}: {host} answered {error.code}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise PullError(f"image: {name}: {host} is no registry of Singularity images") from error
        except (HTTPException, OSError) as error:
            raise Again(f"the transfer broke off ({error})") from error
        if not isinstance(image, str) or not image.startswith(("http://", "https://")):
            raise PullError(f"image: {name}: {host} names no address of the image")
        return image

    try:
        where: str = download.again(name, once)
    except PullError as error:
        if host == HUB:
            raise PullError(f"{error.last_line}; {_CLOSED}") from error
        raise
    if where.startswith("http://") and scheme == "https":
        raise PullError(f"image: {name}: {host} names an address without TLS ({host_of(where)})")
    return where
