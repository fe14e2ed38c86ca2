"""The runner's MCP server, through which executors start and query other sessions (protocol.md, section 4).

`server.py` is cheap to import and listens. The first connection loads `service.py`, and with it the MCP SDK and the web
server. The tools are independent of the SDK.
"""
