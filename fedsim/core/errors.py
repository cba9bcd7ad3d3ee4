"""The errors that end a run, each with one sentence for the person who started it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class FedsimError(Exception):
    """Base class of the errors that are reported as one sentence and not as a traceback."""

    exit_status = 1


class UserError(FedsimError):
    """A wrong setting: the sentence names the key, the value and what is allowed."""

    exit_status = 2


class FileError(FedsimError):
    """A file that cannot be written: the sentence names it and the reason that the operating system gives."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path} cannot be written ({reason})")
        self.reason = reason


class RoundFailed(FedsimError):
    """Too many clients failed in one round for its average to stand for the cohort."""


class Refusal(UserError):
    """A request that a device declines, in a sentence meant for the server, which reveals nothing about the device."""
