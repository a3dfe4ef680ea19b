"""What can go wrong for reasons that lie with the input."""


class PruningError(ValueError):
    """What was asked cannot be done; the message says what must hold, what came, and what to do."""


class PruningWarning(UserWarning):
    """Pruning does what was asked, but it will hardly be what was wanted."""
