"""Keys of objects: what is one, and where whose objects are (``prominence.md`` 1.3).

``uploads/<user>/<name>``, ``uploads/@<group>/<name>``, ``scratch/<job uid>/<name>``,
``snapshots/<job uid>/snapshot.tgz``.
A group's part starts with ``@`` and no user's does, so a user and a group of one name never meet.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from airflow_prominence.objects.model import BadKey

UPLOADS = "uploads"
SCRATCH = "scratch"
SNAPSHOTS = "snapshots"

#: What S3 and common file systems hold, in bytes.
LONGEST_KEY = 1024
LONGEST_PART = 255

_LONGEST_OWNER = 150


def check_key(key: str) -> tuple[str, ...]:
    """Return the parts of a key; raise :class:`BadKey` with what is wrong with it, as said of a name."""
    if not key:
        raise BadKey("is empty")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise BadKey("holds half of a surrogate pair, which is not text") from None
    if len(encoded) > LONGEST_KEY:
        raise BadKey(f"is longer than {LONGEST_KEY} bytes")
    if any(unicodedata.category(character) == "Cc" for character in key):
        raise BadKey("holds a control character")
    parts = tuple(key.split("/"))
    for part in parts:
        if part in ("", ".", ".."):
            raise BadKey(f"has the part {part!r}, which is none")
        if len(part.encode()) > LONGEST_PART:
            raise BadKey(f"has a part longer than {LONGEST_PART} bytes")
    return parts


def is_key(key: str) -> bool:
    """Tell whether an object could have this key."""
    try:
        check_key(key)
    except BadKey:
        return False
    return True


def user_folder(user: str) -> str:
    """Return the folder of a user's own uploads."""
    return f"{UPLOADS}/{_segment(user)}"


def group_folder(group: str) -> str:
    """Return the folder of a group's uploads."""
    return f"{UPLOADS}/@{_segment(group)}"


def _segment(name: str) -> str:
    # Percent signs and equals signs are always quoted, so that no name can look like what is made of another.
    quoted = quote(name, safe="@", errors="surrogatepass")
    if quoted.startswith((".", "@")):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    if len(quoted) > _LONGEST_OWNER:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        return f"{quoted[:64]}={digest}"
    return quoted


def scratch_folder(job_uid: str) -> str:
    """Return the folder of a job's outputs."""
    return f"{SCRATCH}/{job_uid}"


def output_key(job_uid: str, name: str) -> str:
    """Return the key of a job's output file; of a directory the name is that of its tarball."""
    return f"{scratch_folder(job_uid)}/{name}"


def snapshot_key(job_uid: str) -> str:
    """Return the key of a job's snapshot."""
    return f"{SNAPSHOTS}/{job_uid}/snapshot.tgz"


@dataclass(frozen=True)
class Place:
    """Where a name of a user leads: below ``folder``, which is shown as ``shown`` (empty for one's own uploads)."""

    folder: str
    shown: str
    rest: str

    @property
    def key(self) -> str:
        """The object's key; raise :class:`BadKey` if the name is none."""
        key = f"{self.folder}/{self.rest}"
        check_key(key)
        return key

    def name_of(self, key: str) -> str:
        """Return the name under which this user reaches an object of the folder."""
        inside = key[len(self.folder) + 1 :]
        return f"{self.shown}/{inside}" if self.shown else inside


class NotYourGroup(Exception):
    """The name leads to a group that the user is not in."""


def place_of(name: str, user: str, groups: Iterable[str]) -> Place:
    """Return where an upload's name leads: a plain name is the user's own, one with ``/`` is of a group.

    The longest of the user's groups that the name starts with counts, part by part: group ``ab`` is none of ``abc/x``.
    Raises :class:`NotYourGroup`.
    """
    if "/" not in name or name.startswith("/"):
        return Place(user_folder(user), "", name)
    found = _group_of(name, groups)
    if found is None:
        raise NotYourGroup(f"You are not in the group {name.partition('/')[0]!r}")
    return found


def folder_of(path: str, user: str, groups: Iterable[str]) -> Place:
    """Return which folder a path of a list means: the user's own without one, else a group's or one below it."""
    path = path.strip("/")
    if not path:
        return Place(user_folder(user), "", "")
    found = _group_of(path + "/", groups)
    if found is None:
        raise NotYourGroup(f"You are not in the group {path.partition('/')[0]!r}")
    return Place(found.folder, found.shown, found.rest.rstrip("/"))


def _group_of(name: str, groups: Iterable[str]) -> Place | None:
    # An issuer may write its groups as paths from a root.
    fitting = [group for group in groups if (shown := group.strip("/")) and name.startswith(shown + "/")]
    if not fitting:
        return None
    group = max(fitting, key=lambda group: len(group.strip("/")))
    shown = group.strip("/")
    return Place(group_folder(shown), shown, name[len(shown) + 1 :])
