"""An agent runner whose runs move through an explicitly declared state machine."""

__version__ = "0.1.0"
