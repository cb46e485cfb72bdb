"""Which runtimes this machine can be trusted with: each runs a container that would notice being on the host.

A runtime can lie. One whose tracing fails silently runs a program on the host's own files and returns 0.
"""

import json
import os
import platform
import secrets
import sys
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .images.build import Entry, ImageConfig, layer, write_archive
from .images.cache import ImageCache, write_text
from .images.demo import base_entries, busybox_entries, find_busybox, host_entries
from .images.model import PullError, Wanted
from .images.tree import remove_tree
from .runtimes.base import ContainerError, ContainerSpec, Image, Runtime, RuntimeUnavailable
from .runtimes.files import make_folder, run
from .runtimes.loading import NAMES, default_engine_dir, load

WORDS = ("singularity", "udocker")
ORDER = {
    "singularity": ("bubblewrap", "apptainer", "podman", "udocker"),
    "udocker": ("bubblewrap", "udocker", "podman"),
}
# Changed with the test itself, so that an old verdict does not outlive it.
_EDITION = 2
_NO_WALL = "it isolates nothing, so it serves only users who trust each other (--trusted-users-only)"
_UID = 65533
_CODE = 42
_CONTAINERS_OWN = 20
# Only what the shell itself can do, so that the answer is the runtime's and not a tool's.
# $1: the agent, a process of the host; the rest: files of the host.
_SCRIPT = """
if (: <"/proc/$1/environ") 2>/dev/null || kill -0 "$1" 2>/dev/null; then echo processes=seen; fi
shift
read -r mark </selftest-mark && echo "mark=$mark"
for path; do if [ -e "$path" ]; then echo host=seen; fi; done
if [ -e /selftest-left ]; then echo left=seen; fi
if (: >/selftest-left) 2>/dev/null; then echo root=writable; else echo root=readonly; fi
echo "uid=$(id -u)"
: >/home/user/owner
exit 42
"""


@dataclass(frozen=True)
class Verdict:
    """What is known of one runtime: the words it may serve, and one sentence."""

    name: str
    version: str
    words: Tuple[str, ...]
    detail: str
    key: str
    isolates: bool = True

    def serves(self, word: str, trusted: bool) -> bool:
        """Whether it may serve this word: one that isolates nothing only for users who trust each other."""
        return word in self.words and (self.isolates or trusted)

    @property
    def info(self) -> Dict[str, Any]:
        return {
            "version": self.version,
            "admitted": bool(self.words),
            "serves": list(self.words),
            "isolates": self.isolates,
            "detail": self.detail,
        }


class Untrue(Exception):
    """What the runtime did is not what its name promises."""


class Examination:
    """The files of one self-test: an image made on the spot, markers on the host, and jobs' folders."""

    def __init__(self, folder: str) -> None:
        self._folder = make_folder(os.path.join(folder, f"selftest-{os.getpid()}"))
        self._mark = secrets.token_hex(16)
        self._uid = _UID if os.geteuid() == 0 else os.geteuid()
        self._gid = _UID if os.geteuid() == 0 else os.getegid()
        self.markers = [os.path.join(self._folder, "host-marker"), f"/tmp/prominence-selftest-{self._mark}"]
        self._image: Optional[Image] = None
        self._cache: Optional[ImageCache] = None
        self._count = 0
        self.processes_seen = False

    def __enter__(self) -> "Examination":  # noqa: PYI034 - Self is younger than Python 3.8
        for path in self.markers:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        busybox = find_busybox()
        tools = busybox_entries(busybox) if busybox else host_entries(("sh", "id"))
        mark = Entry("selftest-mark", 0o644, self._mark.encode() + b"\n")
        config = ImageConfig(entrypoint=["/bin/sh", "-c", "echo entrypoint=used; exit 1"])
        images = make_folder(os.path.join(self._folder, "images"))
        write_archive(
            os.path.join(images, "selftest.tar"), ["selftest"], config, [layer([*base_entries(), *tools, mark])]
        )
        self._cache = ImageCache(os.path.join(self._folder, "cache"), images)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._cache is not None:
            self._cache.close()
        for path in [*self.markers, self._folder]:
            remove_tree(path)

    def words(self, runtime: Runtime) -> Tuple[Tuple[str, ...], str]:
        """The words that the runtime keeps the promise of, and why not the others."""
        kept: List[str] = []
        reasons: List[str] = []
        for word in WORDS:
            try:
                self._serves(runtime, word == "udocker")
                kept.append(word)
            except (Untrue, ContainerError, RuntimeUnavailable, PullError, OSError) as error:
                reasons.append(f"not for {word}: {error}")
        return tuple(kept), "; ".join(reasons) or "passed the self-test"

    def _serves(self, runtime: Runtime, writable: bool) -> None:
        first = self._run(runtime, "one", writable)
        if first.get("root") != ("writable" if writable else "readonly"):
            raise Untrue(f"its root is {first.get('root')}")
        if writable:
            if "left" not in self._run(runtime, "one", writable):
                raise Untrue("what one task writes to its root is gone for the next")
            if "left" in self._run(runtime, "two", writable):
                raise Untrue("a new job sees what another wrote to its root")

    def _run(self, runtime: Runtime, job: str, writable: bool) -> Dict[str, str]:
        assert self._cache is not None
        image, _ = runtime.pull(Wanted("selftest"), self._cache, lambda _line: None)
        self._count += 1
        folder = os.path.join(self._folder, "jobs", f"{runtime.name}-{'w' if writable else 'r'}-{job}")
        owner = (self._uid, self._gid)
        home, tmp = (make_folder(os.path.join(folder, name), owner) for name in ("home", "tmp"))
        spec = ContainerSpec(
            name=f"pselftest{self._mark[:8]}-{self._count}",
            image=image,
            argv=["sh", "-c", _SCRIPT, "sh", _host_process(), *self.markers],
            env={"USER": "user"},
            workdir="/home/user",
            home=home,
            tmp=tmp,
            binds=[],
            uid=self._uid,
            gid=self._gid,
            memory_mb=256,
            cpus=1,
            writable=writable,
            scratch=os.path.join(folder, "scratch"),
        )
        try:
            runtime.prepare(spec)
            launch = runtime.launch(spec)
            done = run(launch.argv, launch.run_as, launch.env, timeout=120.0)
        finally:
            runtime.kill(spec.name)
            runtime.cleanup(spec)
        facts = dict(line.split("=", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if "=" in line)
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if "entrypoint" in facts:
            raise Untrue("it runs the image's ENTRYPOINT although a command is given")
        if facts.get("mark") != self._mark:
            raise Untrue(f"its container does not see the image's files ({said[-1] if said else 'no message'})")
        if "host" in facts:
            raise Untrue("its container sees files of the host")
        self.processes_seen = self.processes_seen or "processes" in facts
        if facts.get("uid") in (None, "0"):
            raise Untrue(f"its container's user is uid {facts.get('uid')}")
        try:
            found = os.stat(os.path.join(home, "owner")).st_uid
        except FileNotFoundError:
            raise Untrue("what its container writes to the home folder does not arrive") from None
        if found != self._uid:
            raise Untrue(f"its container's files belong to uid {found} on the host")
        if done.returncode != _CODE:
            raise Untrue(f"it turns exit code {_CODE} into {done.returncode}")
        return facts


def _host_process() -> str:
    """The agent's number, unless it is so low that the container may have one of its own with it."""
    own = os.getpid()
    return str(own) if own > _CONTAINERS_OWN else "none"


def examine(names: Tuple[str, ...], state: str, engine_dir: Optional[str]) -> Dict[str, Verdict]:
    """A verdict for each of these runtimes; those of an earlier time hold while nothing of the runtime has changed."""
    known = _remembered(state)
    verdicts: Dict[str, Verdict] = {}
    for name in names:
        runtime = load(name, engine_dir or default_engine_dir())
        try:
            version = runtime.probe()
            key = f"{_EDITION} {platform.release()} {os.geteuid()} {version} {_stamp(runtime.binaries())}"
        except RuntimeUnavailable as error:
            verdicts[name] = Verdict(name, "", (), str(error), "")
            continue
        if name in known and known[name].key == key:
            verdicts[name] = known[name]
            continue
        with Examination(state) as examination:
            words, detail = examination.words(runtime)
            isolates = runtime.isolates and not examination.processes_seen
        if words and not isolates:
            detail += "; " + _NO_WALL
        verdicts[name] = Verdict(name, version, words, detail, key, isolates)
        known[name] = verdicts[name]
        write_text(_file(state), json.dumps({each.name: asdict(each) for each in known.values()}, indent=1))
    return verdicts


def admit(
    wanted: Mapping[str, str], state: str, engine_dir: Optional[str], trusted: bool = False
) -> Tuple[Dict[str, str], Dict[str, Any]]:
    """The site's table (word → runtime) with what is known of each runtime that was looked at.

    An empty `wanted` means: for each word the first that passes, those that isolate before those that don't. The
    latter only if `trusted`: all users of this node trust each other. Raises ValueError where a promise cannot be kept.
    """
    table: Dict[str, str] = {}
    verdicts: Dict[str, Verdict] = {}

    def passes(name: str, word: str, trusted: bool) -> bool:
        if name not in verdicts:
            verdicts.update(examine((name,), state, engine_dir))
        return verdicts[name].serves(word, trusted)

    for word, name in wanted.items():
        if word not in WORDS:
            raise ValueError(f"runtimes: {word!r} is not one of {', '.join(WORDS)}")
        if name not in NAMES:
            raise ValueError(f"runtimes: {name!r} is not one of {', '.join(NAMES)}")
        if not passes(name, word, trusted):
            raise ValueError(f"runtimes: {name} cannot serve {word}: {verdicts[name].detail}")
        table[word] = name
    if not wanted:
        for word in WORDS:
            found = next((name for name in ORDER[word] if passes(name, word, trusted=False)), None)
            if found is None and trusted:
                found = next((name for name in ORDER[word] if passes(name, word, trusted=True)), None)
            if found is not None:
                table[word] = found
        if not table:
            reasons = "; ".join(f"{name}: {verdict.detail}" for name, verdict in verdicts.items())
            raise ValueError(f"this machine has no container runtime that passes the self-test ({reasons})")
    return table, {name: verdict.info for name, verdict in verdicts.items()}


def choose(
    state: str, engine_dir: Optional[str], text: str, trusted: bool = False
) -> Tuple[Dict[str, str], Dict[str, Any]]:
    """`admit` for a command line's `auto` or `singularity=COMMAND,udocker=COMMAND`."""
    wanted: Dict[str, str] = {}
    for item in [] if text == "auto" else text.split(","):
        word, equals, name = item.strip().partition("=")
        if not equals:
            raise ValueError(f"runtimes: {item!r} is not singularity=COMMAND or udocker=COMMAND")
        wanted[word] = name
    return admit(wanted, state, engine_dir, trusted)


def main(state: str, engine_dir: Optional[str], as_json: bool = False) -> int:
    """Print a verdict on every runtime; 0 if one can serve."""
    make_folder(state)
    verdicts = examine(NAMES, state, engine_dir)
    if as_json:
        print(json.dumps({name: verdict.info for name, verdict in verdicts.items()}, indent=1))
    else:
        for name, verdict in verdicts.items():
            print(f"{name:<11} {verdict.version or '-':<8} {'+'.join(verdict.words) or '-':<20} {verdict.detail}")
    sys.stdout.flush()
    return 0 if any(verdict.words for verdict in verdicts.values()) else 1


def _file(state: str) -> str:
    return os.path.join(state, "selftest.json")


def _remembered(state: str) -> Dict[str, Verdict]:
    try:
        with open(_file(state), encoding="utf-8") as file:
            found = json.load(file)
        return {name: Verdict(**{**each, "words": tuple(each["words"])}) for name, each in found.items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _stamp(binaries: List[str]) -> str:
    stamps = []
    for path in binaries:
        found = os.stat(path)
        stamps.append(f"{path}:{found.st_mtime_ns}:{found.st_size}")
    return " ".join(stamps)
