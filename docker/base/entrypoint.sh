#!/bin/sh
# Starts the runner: not as root, and with its secrets where they are files. Arguments are the runner's own:
# `docker run IMAGE --profile-list`.
set -eu

# As process 1 of a container this shell would not get these signals otherwise. What it becomes below resets the trap.
trap 'exit 143' HUP INT TERM

fail() {
    echo "Error: $1" >&2
    exit 2
}

if [ "$(id -u)" = 0 ] && [ -z "${RUN_AS-}" ]; then
    # An image that was built on the base image, and names no user. With RUN_AS it is the executors that give root up.
    export HOME=/home/runner
    setpriv --reuid runner --regid runner --init-groups true 2>/dev/null ||
        fail "root's rights cannot be given up: start it with --user 10001:10001, or with --cap-add SETUID --cap-add SETGID"
    exec setpriv --reuid runner --regid runner --init-groups "$0" "$@"
fi

# The init is of the runner's user, as it could not send signals to it otherwise. In a container that has one already
# (`docker run --init`), and for a command beside the runner (`docker exec`), there is no need of another.
[ $$ != 1 ] || exec tini -- "$0" "$@"

# Empty counts as not set, and then the image's own values are meant.
: "${AGENT_ORCHESTRATOR_API_URL:=http://host.docker.internal:8765}" "${PROJECT_DIR:=/workspace}" "${STATE_DIR:=/var/lib/fsm-runner}"
export AGENT_ORCHESTRATOR_API_URL PROJECT_DIR STATE_DIR
if [ -z "${PROFILE-}" ]; then
    for profile in best echo; do
        [ ! -e "$FSM_RUNNER_HOME/profiles/$profile.json" ] || export PROFILE=$profile
    done
fi

# NAME_FILE names a file with the value of NAME; without it, /run/secrets/NAME is looked for.
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

# What was installed as root while the image was built has left a cache that is root's.
[ -w "$UV_CACHE_DIR" ] || [ ! -e "$UV_CACHE_DIR" ] || export UV_CACHE_DIR="$UV_CACHE_DIR-own"

starts_runner=true
case ${1-} in '' | -*) ;; *) starts_runner=false ;; esac
for word in "$@"; do
    case $word in -l | --profile-list | -h | --help | --version) starts_runner=false ;; esac
done
$starts_runner || exec fsm-runner "$@"

# A container that takes another's place has its volume, and its sessions, but a host name that the engine has made up. It goes
# by the name of the one before, which nobody else may do meanwhile: the lock is held as long as the runner lives.
take_name() {
    exec 9>>"$names/$1"
    flock --nonblock 9 && RUNNER_HOSTNAME=$1 && export RUNNER_HOSTNAME
}
read -r hostname < /proc/sys/kernel/hostname
case $hostname in
    *[!0-9a-f]*) ;; # a name that somebody has chosen
    ????????????)
        names=$STATE_DIR/names
        if [ -z "${RUNNER_HOSTNAME-}" ] && mkdir -p "$names" 2>/dev/null && [ -w "$names" ]; then
            for name in "$hostname" "$names"/*; do
                name=${name##*/}
                # Its own only when it has one: after a restart.
                [ -e "$names/$name" ] && take_name "$name" && break
            done
            [ -n "${RUNNER_HOSTNAME-}" ] || take_name "$hostname" || take_name "$hostname-2"
        fi
        ;;
esac

# Claude Code's own settings, where a volume has none yet. One that cannot be written is the runner's to complain of.
if [ -n "${CLAUDE_CONFIG_DIR-}" ] && [ -d /app/claude-config ] && [ ! -e "$CLAUDE_CONFIG_DIR/.claude.json" ]; then
    mkdir -p "$CLAUDE_CONFIG_DIR" 2>/dev/null && cp -R /app/claude-config/. "$CLAUDE_CONFIG_DIR"
fi

exec fsm-runner "$@"
