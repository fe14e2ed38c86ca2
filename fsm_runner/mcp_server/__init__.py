"""The runner's MCP server (protocol.md, section 4): what an executor starts and looks after other sessions with.

`server.py` is cheap to import and listens; the MCP SDK and the web server are loaded with the first connection.
Only `service.py` and `front.py` know them: tools, waiting and texts are independent of the SDK.
"""
