"""HTTP servers inside the program's own event loop: what the embedded coordinator, the gateway and MCP stand on."""
