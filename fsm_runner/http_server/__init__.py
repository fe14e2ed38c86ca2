"""HTTP servers inside the program's event loop, for the embedded coordinator, the gateway and the MCP server."""
