"""The errors that end a run, each one sentence for the person who started it."""


class FedsimError(Exception):
    """Base of the errors that are reported as one sentence and not as a traceback."""

    exit_status = 1


class UserError(FedsimError):
    """A wrong setting: the sentence names the key, the value and what is allowed."""

    exit_status = 2


class FileError(FedsimError):
    """A file that cannot be written: the sentence names it, and what the operating system has against it."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path} cannot be written ({reason})")
        self.reason = reason


class RoundFailed(FedsimError):
    """So many clients failed in one round that its average would mean something else."""


class Refusal(UserError):
    """What a device does not do, in a sentence that is meant for the server and names nothing of the device."""
