"""The embedded coordinator: the API of protocol.md, section 1, on SQLite, with nothing else to install.

`http/` maps requests to the methods of `coordinator.py`; `store/` is the database and knows no HTTP.
"""
