"""Tries an executor against the executor protocol (protocol.md, sections 1.4, 2 and 3), through the real gateway.

Its process is started as a runner starts it, but what is written to it is the suite's, so that it can be wrong.
"""
