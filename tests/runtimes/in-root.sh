#!/bin/bash
# in-root.sh ROOT FOLDER COMMAND...: runs a command with ROOT as its real root and FOLDER at its own path (Linux, root).
# By pivot_root, since a user namespace, and so apptainer, cannot be had in a chroot. All mounts end with the command.
set -euo pipefail
# shellcheck disable=SC2016  # expanded by the inner shell
exec unshare --mount --propagation private bash -euc '
    root=$1 folder=$2
    shift 2
    mount --bind "$root" "$root"
    cd "$root"
    mkdir -p .old ".$folder"
    mount --bind "$folder" ".$folder"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs -o mode=1777 tmpfs tmp
    pivot_root . .old
    cd /
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    umount -l /.old
    exec "$@"' sh "$@"
