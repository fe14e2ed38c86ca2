#!/bin/sh
# Starts the runner without root, and reads its secrets from files. Arguments are passed to the runner, for example
# `docker run IMAGE --profile-list`.
set -eu

# Process 1 of a container only gets signals for which it has a handler. The `exec` below resets the trap.
trap 'exit 143' HUP INT TERM

fail() {
    echo "Error: $1" >&2
    exit 2
}

if [ "$(id -u)" = 0 ] && [ -z "${RUN_AS-}" ]; then
    # An image based on the base image that sets no user. With RUN_AS, the executors drop root instead of the runner.
    export HOME=/home/runner
    setpriv --reuid runner --regid runner --init-groups true 2>/dev/null ||
        fail "cannot drop root: start the container with --user 10001:10001, or with --cap-add SETUID --cap-add SETGID"
    exec setpriv --reuid runner --regid runner --init-groups "$0" "$@"
fi

# The init runs as the runner's user, because it could not signal the runner otherwise. A container that already has an
# init (`docker run --init`) and an additional command (`docker exec`) need no further one.
[ $$ != 1 ] || exec tini -- "$0" "$@"

# Empty counts as not set; the image's defaults then apply.
: "${AGENT_ORCHESTRATOR_API_URL:=http://host.docker.internal:8765}" "${PROJECT_DIR:=/workspace}" "${STATE_DIR:=/var/lib/fsm-runner}"
export AGENT_ORCHESTRATOR_API_URL PROJECT_DIR STATE_DIR
if [ -z "${PROFILE-}" ]; then
    for profile in best echo; do
        [ ! -e "$FSM_RUNNER_HOME/profiles/$profile.json" ] || export PROFILE=$profile
    done
fi

# NAME_FILE names a file with the value of NAME. The default is /run/secrets/NAME, if it exists.
for name in CLAUDE_CODE_OAUTH_TOKEN ANTHROPIC_API_KEY AUTH0_RUNNER_CLIENT_ID AUTH0_RUNNER_CLIENT_SECRET; do
    eval "value=\${$name-} file=\${${name}_FILE-}"
    unset "${name}_FILE"
    if [ -z "$file" ]; then
        file=/run/secrets/$name
        [ -e "$file" ] || continue
    fi
    [ -f "$file" ] && [ -r "$file" ] || fail "$name: $file cannot be read by uid $(id -u)"
    if [ -z "$value" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done

# A derived image may have installed packages as root, which leaves a cache that belongs to root.
[ -w "$UV_CACHE_DIR" ] || [ ! -e "$UV_CACHE_DIR" ] || export UV_CACHE_DIR="$UV_CACHE_DIR-own"

starts_runner=true
case ${1-} in '' | -*) ;; *) starts_runner=false ;; esac
for word in "$@"; do
    case $word in -l | --profile-list | -h | --help | --version) starts_runner=false ;; esac
done
$starts_runner || exec fsm-runner "$@"

# A container that replaces another one has its volume and its sessions, but a new host name that the engine generated. It
# takes the name of its predecessor, and locks it while the runner lives, so that no other container takes the same name.
take_name() {
    exec 9>>"$names/$1"
    flock --nonblock 9 && RUNNER_HOSTNAME=$1 && export RUNNER_HOSTNAME
}
read -r hostname < /proc/sys/kernel/hostname
case $hostname in
    *[!0-9a-f]*) ;; # not a generated name
    ????????????)
        names=$STATE_DIR/names
        if [ -z "${RUNNER_HOSTNAME-}" ] && mkdir -p "$names" 2>/dev/null && [ -w "$names" ]; then
            for name in "$hostname" "$names"/*; do
                name=${name##*/}
                # Its own host name is only in use after a restart.
                [ -e "$names/$name" ] && take_name "$name" && break
            done
            [ -n "${RUNNER_HOSTNAME-}" ] || take_name "$hostname" || take_name "$hostname-2"
        fi
        ;;
esac

# Copy Claude Code's settings to a new volume. If the volume cannot be written to, the runner reports it.
if [ -n "${CLAUDE_CONFIG_DIR-}" ] && [ -d /app/claude-config ] && [ ! -e "$CLAUDE_CONFIG_DIR/.claude.json" ]; then
    mkdir -p "$CLAUDE_CONFIG_DIR" 2>/dev/null && cp -R /app/claude-config/. "$CLAUDE_CONFIG_DIR"
fi

exec fsm-runner "$@"
