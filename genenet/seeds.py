"""Seeds from seeds."""

import hashlib


def derived_seed(*parts: object) -> int:
    """A seed below 2**31 that depends on all parts and on nothing else, in any process.

    >>> derived_seed(0, "conv0") == derived_seed(0, "conv0") != derived_seed(1, "conv0")
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 2**31
