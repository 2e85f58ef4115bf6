"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

# --- what the store says of experts -----------------------------------------------------------------------------------

EXPERTS = 256
"""Experts of a pool, newcomers included: metrics and routing look at each of them."""

STANDING_ROW_BYTES = 1 << 20
"""One decision about an expert: a newcomer's record of some hundred skills is 10 KiB; a request's body has as much."""

# --- batches ----------------------------------------------------------------------------------------------------------

# --- remote experts and Ray -------------------------------------------------------------------------------------------
RAY_FOLDER_BYTES = 41
"""The longest path of Ray's folder: `/r/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store` comes after it, and a
Unix socket's path has 107 at most."""

REMOTE_LINE_BYTES = 1 << 20
"""One event of a remote expert's stream: the text of one token and its names, usually below 1 KiB."""

REMOTE_BYTES_A_TOKEN = 4 << 10
"""What a remote's stream may have for each token that was asked for, beside one line: an event is some 400 bytes."""

REMOTE_BODY_BYTES = 64 << 20
"""A remote's whole stream, whatever was asked for: it is kept until the answer is complete."""

REMOTE_TEMPLATE_TOKENS = 16_384
"""Prompt tokens that a remote may count beyond the bytes of the messages: its template, its own instructions."""

REMOTE_RETRY_SECONDS = 600.0
"""The longest `Retry-After` of a remote that is passed on: clients obey it."""
