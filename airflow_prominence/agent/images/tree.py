"""Handling a foreign root file system on the host without ever leaving it."""

import os
import stat
import subprocess
import uuid
from typing import Dict, List, Optional, Tuple

_MAX_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve_in_root(root: str, path: str, follow_last: bool = True) -> str:
    """The host path of the container path `path`; parts that do not exist are kept as they are.

    Symbolic links are followed as if `root` were /, so none leaves it.
    """
    pending = [part for part in path.split("/") if part not in ("", ".")]
    pending.reverse()
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del done[-1:]
            continue
        here = os.path.join(root, *done, part)
        if (pending or follow_last) and os.path.islink(here):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"too many symbolic links in {path}")
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            pending.extend(reversed([step for step in target.split("/") if step not in ("", ".")]))
            continue
        done.append(part)
    return os.path.join(root, *done)


def make_directories(root: str, path: str) -> str:
    """Make the host directory `path` (below `root`, already resolved) with parents; files in its way are replaced."""
    here = root
    for part in os.path.relpath(path, root).split(os.sep):
        if part == ".":
            continue
        here = os.path.join(here, part)
        if os.path.lexists(here) and not os.path.isdir(here):
            os.unlink(here)
        if not os.path.lexists(here):
            os.mkdir(here)
            os.chmod(here, 0o755)
    return here


def make_mountpoint(root: str, path: str, directory: bool) -> str:
    """Make sure that container path `path` exists in `root` as a directory or a file; returns its host path."""
    host = resolve_in_root(root, path)
    if directory:
        return make_directories(root, host)
    make_directories(root, os.path.dirname(host))
    if os.path.isdir(host) or (os.path.lexists(host) and not os.path.isfile(host)):
        remove_tree(host)
    if not os.path.lexists(host):
        os.close(os.open(host, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644))
    return host


def remove_tree(path: str) -> None:
    """Remove a file or folder whatever a job has made of it, and raise OSError only after all that goes is gone.

    Modes do not matter (an overlay's work folder has mode 0, too), nor does depth: a folder in a folder is first moved
    up, so a nest deeper than Python's stack, open files or the longest path allow is removed as any other.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    top = os.open(path, _FOLDER)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int) -> None:
    stuck: Dict[str, OSError] = {}
    while True:
        names = [name for name in os.listdir(top) if name not in stuck]
        if not names:
            break
        for name in names:
            try:
                _remove_entry(top, name, top)
            except FileNotFoundError:
                continue  # somebody else removes it, too
            except OSError as error:
                stuck[name] = error
    if stuck:
        raise next(iter(stuck.values()))


def _remove_entry(folder: int, name: str, top: int) -> None:
    """Remove what is called `name` in `folder`; folders in it go up to `top`, for later."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    os.chmod(name, 0o700, dir_fd=folder)
    if folder != top:
        os.rename(name, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)
        return
    below = os.open(name, _FOLDER, dir_fd=top)
    stays: Optional[OSError] = None
    try:
        for inner in os.listdir(below):
            try:
                _remove_entry(below, inner, top)
            except FileNotFoundError:
                continue
            except OSError as error:
                stays = error
    finally:
        os.close(below)
    if stays is not None:
        raise stays
    os.rmdir(name, dir_fd=top)


def copy_tree(source: str, target: str, owner: Optional[Tuple[int, int]]) -> None:
    """Copy a whole root file system (sharing blocks where the file system can), owned by `owner` if given and root."""
    done = _copy(["--reflink=auto"], source, target)
    if done.returncode != 0 and "reflink" in done.stderr:
        done = _copy([], source, target)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["cp failed"]
        raise OSError(f"copying an image: {lines[-1]}")
    if owner is not None and os.geteuid() == 0:
        change_owner(target, owner)


def _copy(options: List[str], source: str, target: str) -> "subprocess.CompletedProcess[str]":
    argv = ["cp", "-a", *options, "--", source, target]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def change_owner(path: str, owner: Tuple[int, int]) -> None:
    os.lchown(path, *owner)
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            os.lchown(os.path.join(folder, name), *owner)
