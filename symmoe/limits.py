"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

# --- batches ----------------------------------------------------------------------------------------------------------

# --- remote experts and Ray -------------------------------------------------------------------------------------------
