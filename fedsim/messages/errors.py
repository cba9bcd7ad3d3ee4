"""The codes of error replies."""

UNKNOWN = 0
"""Flower's ``ErrorCode.UNKNOWN``; the reason says more."""
CLIENT_RAISED = 2
"""Flower's ``ErrorCode.CLIENT_APP_RAISED_EXCEPTION``"""
SUPERFLUOUS = 1000
"""Of a client whose answer is not needed: it has not failed. Flower's own codes are small."""
