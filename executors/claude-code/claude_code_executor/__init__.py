"""The executor for Claude Code (protocol.md, section 2.2). `ao-claude-code-exec` is its entry point."""
