"""Every fixed bound that keeps one caller, one file or one process from taking what belongs to all, with its reason.

What an operator may set stands in the pool file or in the service's `Settings`; what stands here is no choice of
anybody's. `docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

# --- grammars and prompts, before they reach an engine ---------------------------------------------------------------

SCHEMA_CHARACTERS = 16_384
"""Of a JSON schema as JSON: published schemas of forms and tools are far smaller."""
SCHEMA_DEPTH = 32
"""Lists and objects of a schema within each other: compilers walk them by recursion, xgrammar in exponential time."""
SCHEMA_CPU_SECONDS = 4
"""Of a core, to compile one schema: a text of bounded length takes 3 s with a vocabulary of 49,152 tokens."""
SCHEMA_WALL_SECONDS = 10.0
"""To compile one schema on a machine that has little time for it; after that nothing is known of the schema."""
SCHEMA_BYTES = 512 << 20
"""Of memory to compile one schema, beyond what the compiler has at rest: ordinary ones take less than 200 MiB."""
SCHEMA_READ_SECONDS = 0.25
"""Of a core, to make a grammar of a schema, which an engine does again between two steps of everybody's answers."""
SCHEMA_STEP_SECONDS = 0.002
"""Of a core for each token, on average over a stretch of text: an engine waits for it in every step. Usual: 0.0003."""
SCHEMAS_AT_ONCE = 2
"""Compiled at the same time for one replica: one that takes long leaves room for another."""
SCHEMAS_WAITING = 64
"""Schemas of all keys together that wait to be compiled at one replica, with 16 KiB each."""
SCHEMAS_WAITING_OF_KEY = 8
"""Schemas of one key that wait: with two at once its last one waits for half a minute at the worst."""
SCHEMA_PATIENCE = 60.0
"""Until a request with a schema that was not compiled is turned away, the start of the compiler included."""
SCHEMA_VERDICTS = 4096
"""Remembered by digest: less than a MiB."""
SCHEMA_DEAR_SECONDS = 0.5
"""Schemas that take longer are remembered apart: an engine forgets them sooner and compiles them again."""
SCHEMA_DEAR_VERDICTS = 32
"""Of those: about as many as an engine keeps compiled, so that what passes unseen is not compiled there again."""
ENGINE_GRAMMARS_MIB = 128
"""Compiled grammars that a vLLM engine keeps: by default it would keep 512 MiB of whatever clients send."""
PROMPT_CHARACTERS_PER_TOKEN = 8
"""A prompt is tokenised from its start, this many characters for each token of the window at first: English has four
to a token, so most prompts that fit are read at once, and one far too long is refused for what that costs."""
PROMPT_SLACK = 64
"""Tokens by which a prompt's start must be over the window for all of it to be: a word that is cut has more tokens."""
TEMPLATE_SECONDS = 2.0
"""For a checkpoint's chat template, a program, to render a conversation: ordinary ones take a millisecond."""
ROUTED_CHARACTERS = 32_768
"""Of a question, half from either end, that routing reads: embedders keep some hundred tokens and tokenise it all."""

# --- the door: connections, headers, bodies ---------------------------------------------------------------------------

# --- batches ----------------------------------------------------------------------------------------------------------

# --- remote experts and Ray -------------------------------------------------------------------------------------------
