"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

CONNECTIONS = 4096
"""Open at one proxy: four for each request that may be open, far below the 65,536 files that Ray allows a process."""
HEAD_SECONDS = 20.0
"""For a request's head, from the connection's beginning: a slow line needs two."""
HEAD_BYTES = 64 << 10
"""Of a request's head, and of what follows its body: what clients send is below 8 KiB, and uvicorn has no bound."""
BODY_SECONDS = 30.0
"""That a client may let the service wait for a body, and a second more for each `BODY_RATE` bytes that came."""
BODY_RATE = 8 << 10
"""Bytes in a second: the largest file that is taken by default then has seven hours, a chat request two minutes."""
BODY_FIRST_BYTES = 64 << 10
"""That the proxy takes of a body before the key is known: most questions are smaller, and wait for nothing."""
BODY_WINDOW_BYTES = 512 << 10
"""Of one body between the client and who reads it: a file comes at 100 MB/s with it, and 1,024 bodies take 512 MiB."""
LINGER_SECONDS = 5.0
"""That the rest of a body is thrown away after its answer: who is closed on at once may never see the answer."""
LINGER_BYTES = 4 << 20
"""So much of it at most."""
STORE_ASKS = 32
"""Questions about keys and limits that the store is asked at once: half its connections. More wait in line."""
MODELS_OPEN = 64
"""Requests for the list of models, which have places of their own: clients ask for it first, and it takes 1 ms."""

# --- batches ----------------------------------------------------------------------------------------------------------

# --- remote experts and Ray -------------------------------------------------------------------------------------------
