"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

STORE_START_SECONDS = 20.0
"""How long a command waits for a store that lives and does not answer: its file may be long to read, its disk slow."""
STORE_ANSWER_SECONDS = 60.0
"""How long a command's own reading or writing may take: a batch job should outlast a stall rather than end."""
STORE_REQUEST_SECONDS = 5.0
"""How long a service waits for one answer of the store, or for its turn to ask: then the caller is told."""
STORE_CONNECTIONS = 64
"""Connections of one process of a service: more would not be answered sooner, the server does one thing at a time."""
STORE_DISK_MS = 3000
"""Milliseconds for what was written to be on the server's disk; it flushes once a second."""
STORE_BYTES = 2 << 30
"""Memory of the embedded store's rows: beyond it writes are refused, before the machine has to end a process."""
STORE_LOG_BYTES = 1 << 20
"""From which size on the server's log gives way to a new one as it starts; the one before is kept."""
STORE_STARTS = 3
"""Times that one command starts a server which ends at once: one that was stopped meanwhile is no fault."""
STORE_KEPT = 8
"""Copies of damaged store files that are kept, the newest ones: each may be as large as the store."""

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

# --- batches ----------------------------------------------------------------------------------------------------------

# --- remote experts and Ray -------------------------------------------------------------------------------------------
