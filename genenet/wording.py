"""Small words for messages."""

import difflib
from collections.abc import Iterable


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "network"), plural(4000, "network")
    ('1 network', '4,000 networks')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def known_instead(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that nobody knows.

    >>> known_instead("imgae", ["image", "labels"])
    'did you mean `image`?'
    >>> known_instead("foo", ["labels", "image"])
    'known are image, labels'
    """
    close = difflib.get_close_matches(name, known := sorted(known), n=1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
