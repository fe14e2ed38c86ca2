#!/bin/sh
# Starts the runner: not as root, and with its secrets where they are files. Arguments are the runner's own:
# `docker run IMAGE --profile-list`.
set -eu

if [ "$(id -u)" = 0 ]; then
    # An image that was built on the base image, and names no user.
    export HOME=/home/runner
    exec setpriv --reuid runner --regid runner --init-groups "$0" "$@"
fi

# NAME_FILE names a file with the value of NAME; without it, /run/secrets/NAME is looked for.
for name in CLAUDE_CODE_OAUTH_TOKEN ANTHROPIC_API_KEY AUTH0_RUNNER_CLIENT_ID AUTH0_RUNNER_CLIENT_SECRET; do
    eval "value=\${$name-} file=\${${name}_FILE-}"
    if [ -n "$file" ] && [ ! -r "$file" ]; then
        echo "Error: ${name}_FILE: $file cannot be read" >&2
        exit 2
    fi
    [ -n "$file" ] || file=/run/secrets/$name
    if [ -z "$value" ] && [ -r "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
    unset "${name}_FILE"
done

# Claude Code's own settings, where a volume has none yet.
if [ -n "${CLAUDE_CONFIG_DIR-}" ] && [ -d /app/claude-config ] && [ ! -e "$CLAUDE_CONFIG_DIR/.claude.json" ]; then
    mkdir -p "$CLAUDE_CONFIG_DIR"
    cp -R /app/claude-config/. "$CLAUDE_CONFIG_DIR"
fi

exec fsm-runner "$@"
