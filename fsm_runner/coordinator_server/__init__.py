"""The embedded coordinator: the API of protocol.md, section 1, on SQLite, with nothing else to install.

`http/` maps requests to methods of `store/`, the database, or of `coordinator.py`. Both know no HTTP.
"""
