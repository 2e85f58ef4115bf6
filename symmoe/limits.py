"""Every fixed bound that keeps one caller, file or process from exhausting what all share, with its reason.

What an operator may set is in the pool file or in the service's `Settings`; the bounds here cannot be changed.
`docs/security.md` lists both. Sizes are in bytes and times in seconds, unless a line says otherwise.
"""

from __future__ import annotations

# --- the store -------------------------------------------------------------------------------------------------------

STORE_START_SECONDS = 20.0
"""How long a command waits for a store that lives and does not answer: its file may be long to read, its disk slow."""
STORE_ANSWER_SECONDS = 60.0
"""How long a command's own reading or writing may take: a batch job should outlast a stall rather than end."""
STORE_REQUEST_SECONDS = 5.0
"""How long a service waits for one answer of the store, or for its turn to ask: then the caller is told."""
STORE_PATIENCE = 1.0
"""How long a request waits for the store to tell of its key and its limits, while the process is not busy."""
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

STOPS = 16
"""Sequences that end an answer: OpenAI takes four, editors send nine; an engine looks for each after every token."""

STOP_TOKENS = 64
"""Token ids that end an answer: an engine compares each token with them."""
BIASED_TOKENS = 300
"""Tokens whose logits a request changes, as OpenAI has it: an engine writes each at every step."""
TOP_LOGPROBS = 20
"""Likeliest tokens told of with each token of an answer, as OpenAI has it, and vLLM by default."""
TEMPLATE_CHARACTERS = 4096
"""Of a request's own arguments of the chat template, as JSON: they are flags and names."""
PROMPTS = 64
"""Of one request for completions, as many at most as choices that it asks for: each is routed and generated for."""
TOOLS = 128
"""Tools of one request, and calls in one turn of a conversation, as OpenAI has it."""
TOOLS_CHARACTERS = 65_536
"""Of a request's tools as JSON: they are part of the prompt, and a template walks them."""
IGNORED_NAMES = 16
"""Fields without effect that a header names; their names are the client's and can be many."""

SCHEMA_CHARACTERS = 16_384
"""Of a JSON schema as JSON, a pattern or a grammar: published schemas of forms and tools are far smaller."""
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

IMAGES = 16
"""Images of one request: each is decoded, and an engine makes some hundred tokens of it."""
IMAGE_BYTES = 12 << 20
"""Of one image as it is sent: photos of 24 million pixels have less."""
IMAGE_PIXELS = 25_000_000
"""Of one image, known before it is decoded: one at a time they take 100 MB, however few bytes tell of them."""
IMAGE_SIDE = 2048
"""Pixels a side to which larger images are made smaller: models look at less."""
IMAGE_SECONDS = 10.0
"""To fetch an image from its URL, redirects included."""
IMAGE_REDIRECTS = 3
"""That are followed on the way to an image, each to an address that is looked at as the first was."""
IMAGE_URL_CHARACTERS = 4096
"""Of a URL at which an image is."""
LARGE_BODIES = 32
"""Requests that are larger than `most_bytes`, for their images, and open at once: 16 MiB each, and a key a quarter."""

EMBEDDED_TEXTS = 2048
"""Texts of one request for embeddings, as OpenAI has it; questions that come meanwhile are routed between them."""
EMBEDDED_CHARACTERS = 32_768
"""Of one text to be embedded: embedders read some hundred tokens, and it is tokenised as a whole."""

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
"""Of a body that the proxy waits for before anybody knows of the request: the whole of most questions."""
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

RESPONSE_BYTES = 1 << 20
"""Of one response that is kept with its conversation; a larger one is answered and not kept."""
RESPONSES_OF_KEY = 1000
"""Responses that are kept of one key: the oldest give way."""
RESPONSES_BYTES_OF_KEY = 16 << 20
"""Of all of them together: the store's memory is for a hundred keys of that and all else."""
RESPONSE_SECONDS = 30 * 86400.0
"""For which a response is kept, as OpenAI keeps them."""
TRACE_BYTES = 1 << 18
"""Of one trace that is kept; a larger one is kept without texts and standings."""
TRACE_TEXT_CHARACTERS = 16_384
"""Of one message or candidate in a trace that is kept with texts: what is beyond is left out."""
TRACES_BYTES = 256 << 20
"""Of all traces that are kept, whatever their number: the oldest of the key whose traces weigh most give way."""
TRACES_WAITING = 2_000
"""Requests whose traces wait to be written: a store that is slow costs traces, not memory."""

USAGE_DAYS = 400
"""Days of usage that are told at once: each key has a row for each month of them."""

# --- what the store says of experts -----------------------------------------------------------------------------------

EXPERTS = 256
"""Experts of a pool, newcomers included: metrics and routing look at each of them."""

RECORD_HISTORY_BYTES = 8 << 20
"""Of all versions together: one in which six experts change on sixty skills each is 18 KiB."""
PROFILE_VERSIONS = 20
"""Versions of each of the profiles that `symmoe profile push` put into the store."""
RECORD_VERSIONS = 200
"""Versions of a pool's records that are kept: records change by the day, and this is half a year of that."""
STANDING_ROW_BYTES = 1 << 20
"""One decision about an expert: a newcomer's record of some hundred skills is 10 KiB; a request's body has as much."""

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
