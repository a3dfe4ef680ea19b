"""Exceptions that say what to do."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names what must hold, what came, and what to do. The command line prints it
    and ends with exit code 2; anything else that escapes is a bug and shows a traceback.
    """


class TrainingError(RuntimeError):
    """Training cannot go on.

    Attributes:
        reason: `nan` or `memory`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
