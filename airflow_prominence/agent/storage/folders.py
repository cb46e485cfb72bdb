"""The folders of a lease's volume: made before it is mounted, and removed with nothing of the user's data."""

from __future__ import annotations

import os

from ..images.tree import remove_tree
from ..paths import LeasePaths
from . import fuse


def make(paths: LeasePaths, gid: int) -> None:
    """Fresh folders that are ours: the job's user (of group `gid`) passes through to the volume alone."""
    remove(paths)
    os.makedirs(paths.mounts, mode=0o700)
    if os.geteuid() == 0:
        os.chown(paths.mounts, 0, gid)
        os.chmod(paths.mounts, 0o710)
    os.mkdir(paths.volume, 0o700)
    os.makedirs(paths.storage, mode=0o700)


def remove(paths: LeasePaths) -> bool:
    """Unmount a lease's volume and remove what there was for it; False when something of it stays.

    What is below the mount point is the user's, so it is never removed as a tree.
    """
    gone = fuse.unmount(paths.mounts)
    for folder in (paths.volume, paths.mounts):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            print(f"{folder}: {error.strerror}")
            return False
    try:
        remove_tree(paths.storage)
    except OSError as error:
        print(f"{paths.storage}: {error}")
        return False
    return gone
