"""The pending approvals of one runner."""


class Approvals:
    """Where the approval steps of all runs wait for decisions."""
