"""Validation against JSON Schemas that other programs wrote, within limits of time and memory."""
