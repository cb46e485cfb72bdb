#!/bin/bash
# install.sh RUNTIME ENGINE_DIR: puts what a runtime needs on this machine (Debian, root), from its own package mirror.
set -euo pipefail
runtime=$1 engines=$2

packages() { # installs what is missing
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 \
        "${missing[@]}" >&2
}

mirror() { # of this machine's own release
    . /etc/os-release
    # shellcheck disable=SC2016  # apt's own placeholders
    apt-get indextargets --format '$(CODENAME) $(CREATED_BY) $(REPO_URI)' |
        awk -v want="$VERSION_CODENAME" '$1 == want && $2 == "Packages" { print $3; exit }'
}

# udocker's engine: proot of Debian's development release, since older ones let newer system calls through to the host,
# with the loader and libc that it was built for. A small script starts it wherever it lies.
engine() {
    local target=$1 work options bin file
    [ -x "$target/bin/proot-x86_64" ] && return 0
    [ -n "$(mirror)" ] || apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    work=$(mktemp -d)
    mkdir -p "$work"/{lists/partial,cache/archives/partial,unpacked}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) sid main" >"$work/sources"
    # A mirror may be frozen, its release file past its date: signatures are checked all the same.
    options=(-qq -o "Dir::State=$work" -o "Dir::Cache=$work/cache" -o "Dir::Etc::SourceList=$work/sources"
        -o Dir::Etc::SourceParts=- -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    (cd "$work" && apt-get "${options[@]}" download proot libc6 libtalloc2 >&2)
    for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/unpacked"; done
    bin=$target/bin
    mkdir -p "$bin" "$target/lib"
    cp "$work/unpacked/usr/bin/proot" "$bin/proot.elf"
    for file in ld-linux-x86-64.so.2 libc.so.6 libtalloc.so.2; do
        cp -L "$(find "$work/unpacked" -name "$file" | head -n 1)" "$bin/$file"
    done
    cat >"$bin/proot-x86_64" <<'SCRIPT'
#!/bin/sh
here=${0%/*}
exec "$here/ld-linux-x86-64.so.2" --library-path "$here" "$here/proot.elf" "$@"
SCRIPT
    cp "$bin/proot-x86_64" "$bin/proot-x86_64-4_8_0"
    chmod -R a+rX "$target"
    chmod 755 "$bin"/*
    echo 1.2.11 >"$target/lib/VERSION"
    rm -rf "$work"
}

# Debian has apptainer in its development release only, so it gets a root of that, with the Python that a node needs.
# The users are those of tests/runtimes: apptainer serves nobody whom the machine does not know.
debian_root() { # target, uid of an agent that is not root, packages...
    local target=$1 uid=$2 made
    shift 2
    [ -d "$target" ] && return 0
    [ "$(id -u)" = 0 ] || { echo "a Debian root is made as root only" >&2 && return 1; }
    packages mmdebstrap
    [ -n "$(mirror)" ] || apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    made=$target.part
    mkdir -p "$(dirname "$target")"
    # As with udocker's engine, the mirror may be frozen.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="$(IFS=,; echo "$*")" --customize-hook="chroot \"\$1\" useradd -M -u $uid -K UID_MAX=$uid -s /bin/sh agent" \
        sid "$made" "$(mirror)" >&2
    mv "$made" "$target"
}

case $runtime in
apptainer) debian_root "$engines/apptainer-root" 64322 apptainer busybox-static mount python3 tzdata ;;
bubblewrap) ;; # comes from PyPI with the project's own requirements
podman) packages podman runc catatonit uidmap ;;
udocker) engine "$engines/udocker" ;;
busybox) packages busybox-static ;;
squashfs) packages squashfs-tools ;;
storage) packages rclone fuse3 ;; # what mounts WebDAV volumes
docker) packages docker.io ;;
registry) packages docker-registry ;; # a real one, with passwords
*) echo "install.sh: $runtime is not one of apptainer, bubblewrap, busybox, docker, podman, registry, squashfs, storage, udocker" >&2 && exit 1 ;;
esac
