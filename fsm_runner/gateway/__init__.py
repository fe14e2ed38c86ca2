"""The gateway between executors and the coordinator (protocol.md, section 3).

Each session has a base URL of its own. It gives access to that session, to the child runs that the session starts, and
to nothing else.
"""
