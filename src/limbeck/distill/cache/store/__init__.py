"""Arrays over (view, row) on disk, made once and shared by runs; knows nothing of teachers, and needs no torch.

One store is one folder below the user's cache, named after the fingerprint of what the numbers depend on, so that a
store made for anything else is never looked at:

    <key>/header.json    what the numbers depend on, what they are called, the arrays and their geometry
    <key>/<array>.bin    numbers alone, [views, rows, *shape]; grows when more views are asked for
    <key>/shards.jsonl   a line for each finished shard: (view, block of rows) and a checksum of each array
    <key>/shards.lock    byte i is locked by the process that makes shard i, until it is done or dies
    <key>/in-use         locked, shared, by everyone who has the store open; nobody removes it then

A shard is on the disk before its line is in the journal, so a kill loses at most the shard in work.
"""

from limbeck.distill.cache.store.building import SHARD_ROWS, Store, open_store
from limbeck.distill.cache.store.keeping import Entry, entries, free_bytes, outputs_dir, prune, room, verify
from limbeck.distill.cache.store.layout import Array, in_words

__all__ = [
    "SHARD_ROWS",
    "Array",
    "Entry",
    "Store",
    "entries",
    "free_bytes",
    "in_words",
    "open_store",
    "outputs_dir",
    "prune",
    "room",
    "verify",
]
