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

KEY_SHARE = 8
"""A key may always have one in so many of the places and bytes that open lines may take, whatever others have."""

LONGEST_KEY_PAUSE = 5.0
"""Lines of a key over its limit are let be for so long: then it is seen whether the key is still good."""

FAILURES_A_PAUSE = 256
"""Lines of one batch that may be turned away within a pause: failures must not come in a storm."""

# --- remote experts and Ray -------------------------------------------------------------------------------------------
