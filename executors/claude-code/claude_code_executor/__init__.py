"""Claude Code behind the executor protocol: what `ao-claude-code-exec` does."""
