"""The one exception that means: what came in from outside cannot be used."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names what must hold, what came, and what to do. The command line prints it
    and ends with exit code 2; anything else that escapes is a bug and shows a traceback.
    """
