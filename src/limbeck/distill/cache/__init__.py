"""Teachers' outputs, queried once and read from the disk ever after.

What is stored depends on the teacher, the data, the augmentation, and on how it is stored; all of that is the identity
of a store (see `store`), so an answer to anything else is never found. Temperature is no part of it: logits are stored.
"""

from limbeck.distill.cache.codec import size_bytes
from limbeck.distill.cache.identity import identify
from limbeck.distill.cache.queries import Reasked, outputs, pixels, reask
from limbeck.distill.cache.reading import Pixels, Stored
from limbeck.distill.cache.store import Entry, entries, prune, room, verify

__all__ = [
    "Entry",
    "Pixels",
    "Reasked",
    "Stored",
    "entries",
    "identify",
    "outputs",
    "pixels",
    "prune",
    "reask",
    "room",
    "size_bytes",
    "verify",
]
