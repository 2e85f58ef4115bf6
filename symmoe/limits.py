"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

# --- batches ----------------------------------------------------------------------------------------------------------

BATCHES_RUNNING = 8
"""Batches that one ingress runs side by side: one that waits for its expert holds up no others."""

KEYS_RUNNING = 64
"""Keys of which an ingress runs a batch each, however many others run: a first batch waits for nobody's eighth."""

RECORDS_AT_ONCE = 25
"""Batches read in one round trip: a record takes up to 40 KB, and the store answers others meanwhile."""

NAMES_AT_ONCE = 256
"""Names, files' records or rows' places read or written in one round trip."""

ROW_CHUNK = 1 << 20
"""Bytes of a row that are encoded, written or copied at once: rows may be large, and what handles them must not."""

MOST_ROW = 32 << 20
"""Bytes of one line's row; a line whose answer would be longer has an error instead."""

HEAVY_LINE = 1 << 18
"""Weight of a line from which its row is put together off the event loop, which would otherwise stand still for it."""

MOST_LINES = 50_000
"""Lines of a file that a batch may be made of, as OpenAI has it; as many blank ones may stand between them."""

SCAN_BREATH = 0.001
"""Seconds that looking through a file pauses after each mebibyte, or 4,096 lines: requests are answered meanwhile."""

ROWS_GRANT = 16 << 20
"""Bytes that rows of a batch may take, at most, until it is looked again how much room its key has left."""

KEY_SHARE = 8
"""A key may always have one in so many of the places and bytes that open lines may take, whatever others have."""

LONGEST_KEY_PAUSE = 5.0
"""Lines of a key over its limit are let be for so long: then it is seen whether the key is still good."""

FAILURES_A_PAUSE = 256
"""Lines of one batch that may be turned away within a pause: failures must not come in a storm."""

# --- remote experts and Ray -------------------------------------------------------------------------------------------
