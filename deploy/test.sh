#!/bin/bash
# The test suites: deploy/test.sh all | unit | survival | deploy | sites | browser. .venv is there already (make dev-venv).
set -uo pipefail
cd "$(dirname "$0")/.."
what=$1

# Programs that tests of the agent and the container runtimes need, by the command that shows that they are there.
runtimes="ip:iproute2 podman:podman runc:runc newuidmap:uidmap busybox:busybox-static curl:curl rclone:rclone fusermount3:fuse3"
deployment="dockerd:docker.io docker-compose:docker-compose debootstrap:debootstrap iptables:iptables"
sites="mmdebstrap:mmdebstrap busybox:busybox-static docker-registry:docker-registry"
browser="node:nodejs npm:npm chromium:chromium"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

install_needed() { # command:package ...
    local missing=() entry
    for entry in "$@"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing with apt-get what tests need: ${missing[*]} ..."
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"; } \
            >/dev/null 2>&1 || echo "apt-get could not install ${missing[*]}; tests that need them will say so."
    else
        echo "Not installed: ${missing[*]} (apt-get install ${missing[*]}); tests that need them will say so."
    fi
}

failed=()
step() { # name, command...
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    if "$@"; then
        echo "== $name: well, $((SECONDS - began)) s"
    else
        failed+=("$name")
        echo "== $name: FAILED, $((SECONDS - began)) s"
    fi
}

suites() { # those of the folders that there are
    local folder found=()
    for folder in "$@"; do
        [ -d "tests/$folder" ] && found+=("tests/$folder")
    done
    .venv/bin/python -m pytest -q "${found[@]}" ${PYTEST_ARGS:-}
}

finish() { # the exit status of the whole
    [ ${#failed[@]} = 0 ] && return 0
    local list
    printf -v list '%s, ' "${failed[@]}"
    echo "Failed: ${list%, }"
    return 1
}

meanwhile() {
    # What looks at times is in the other ones.
    renice -n 5 -p "$BASHPID" >/dev/null
    step "ruff check" .venv/bin/ruff check .
    step "ruff format" .venv/bin/ruff format --check --quiet .
    step "mypy" .venv/bin/mypy
    step "import arrows" .venv/bin/lint-imports
    PYTEST_ARGS="--ignore=$alone ${PYTEST_ARGS:-}" step "tests without a stack" suites unit runtimes agent api
    finish
}

on_a_second_stack() {
    step "tests of a second stack" suites airflow
    finish
}

case $what in
all)
    # shellcheck disable=SC2086 - words
    install_needed $runtimes
    # What an agent keeps jobs from holds for all of the machine, and another agent's rules would be seen with its own.
    alone=tests/agent/test_metadata.py
    # shellcheck disable=SC2086 - words
    step "tests for an agent alone" .venv/bin/python -m pytest -q $alone ${PYTEST_ARGS:-}
    # A stack mostly waits.
    beside=$(mktemp) second=$(mktemp)
    # With job control each is a process group, which ends together and hears of an interrupt.
    set -m
    meanwhile >"$beside" 2>&1 &
    others=("$!")
    on_a_second_stack >"$second" 2>&1 &
    others+=("$!")
    set +m
    trap 'for one in "${others[@]}"; do kill -INT -- "-$one" 2>/dev/null; done; rm -f "$beside" "$second"' EXIT
    echo "== ruff, mypy, import arrows, tests without a stack and those of another run meanwhile, and are told of afterwards"
    step "tests of a stack" suites integration
    for one in "${others[@]}"; do
        wait "$one" || failed+=("what ran meanwhile")
    done
    cat "$second" "$beside"
    ;;
unit) step "tests" suites unit ;;
survival) step "kill tests" suites survival ;;
deploy)
    # shellcheck disable=SC2086 - words
    install_needed $deployment
    PYTEST_ARGS="-m deploy ${PYTEST_ARGS:-}" step "tests on a Docker daemon" suites deploy runtimes integration
    ;;
sites)
    # shellcheck disable=SC2086 - words
    install_needed $runtimes $sites
    PYTEST_ARGS="-m sites ${PYTEST_ARGS:-}" step "tests as on a site's machine" suites runtimes agent integration
    ;;
browser)
    # shellcheck disable=SC2086 - words
    install_needed $browser
    step "tests in a browser" suites browser
    ;;
install-browser)
    # shellcheck disable=SC2086 - words
    install_needed $browser
    ;;
*)
    echo "deploy/test.sh all | unit | survival | deploy | sites | browser" >&2
    exit 2
    ;;
esac
finish
