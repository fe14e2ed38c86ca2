"""A coordinator that needs nothing else installed: the API of protocol.md, section 1, on SQLite."""
