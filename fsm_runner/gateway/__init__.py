"""The executors' only door to the coordinator: protocol.md, section 3.

Each session has an address of its own, which opens that session, the child runs that it starts, and nothing else.
"""
