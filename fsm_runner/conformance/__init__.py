"""Tests an executor against the executor protocol (protocol.md, sections 1.4, 2 and 3) through the real gateway.

The suite starts the executor as a runner does, but writes its input itself, so that the input can be invalid.
"""
