"""What can be set of a service, apart from the pool."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from symmoe.errors import JobError


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds and choices of a service. Times are in seconds. Raises `JobError` for a number below 0 or without end.

    replicas       expert replicas: engines that run side by side
    least          where load may decide, at least so many replicas, 0 allowed; None for always all
    cpus           CPUs that one replica claims; None for what the machines that are there divide into
    accelerators   accelerators that one replica claims; None for as many as its engine uses, where there are any
    idle           how long there must be too little load before a replica is ended
    reward_replicas  reward replicas, where the pool has a reward model
    reward_least   where load may decide, at least so many of them, 0 allowed; None for always all
    reward_cpus    CPUs that one of them claims
    reward_accelerators  accelerators that one of them claims; None for one where the pool file puts the model on one
    slowest_verdict  candidates that a reward replica has not weighed after so long are weighed by records alone
    patience       a request that has waited so long makes its expert the next one
    longest_wait   a request that has not begun after so long is turned away
    deadline       a request that is not finished after so long is given up
    most_waiting   requests that may wait at one replica
    most_open      requests that may be open at the ingress
    key_share      the share of those that one key's requests may take
    hosts          names besides this machine's own by which a service without keys may be asked; `*` for any
    origins        sites whose pages may ask (CORS), as `https://app.example`; `*` for any
    strict         whether a field without effect is a 400 instead of named in a header
    most_bytes     size of a request's body
    image_bytes    the same where an expert sees images
    image_urls     whether images are fetched that a request names by their URL, from public addresses alone
    most_choices   the highest `n` of a request
    amortise       an expert's turn may take so many times what the switch to the next one costs
    stall          an engine that takes so long for one step is replaced
    slowest_load   an engine that takes so long to make an expert ready is replaced
    grace          how long open requests may take to finish when the service stops
    most_file_bytes  size of a file that batches are made of
    most_files     files that one key may have, those that its open batches will give included
    most_files_bytes  bytes of all files of one key
    file_seconds   how long files are kept, where their maker does not say a shorter time; 0 for always
    most_open_batches  batches of one key that are not over
    most_batch_lines  lines of a file that a batch may be made of; as many blank ones may stand between them
    most_batch_records  batches of one key that are over and still listed; beyond that the oldest are forgotten
    batch_records_seconds  how long batches are listed after they are over; 0 for always
    batch_lines_open  lines of batches that one ingress has open at once: enough to group them by expert
    batch_bytes_open  bytes that those lines weigh at most, with what they may be answered
    batch_window   a batch that is not over after so long expires
    batch_lease    a batch whose ingress gave no sign of life for so long is taken up by another
    cache_seconds  how long an answer is given again to an equal request of the same key; 0 for not at all
    cache_entries  entries of the cache that one key has at most
    usage_seconds  how long what keys used is kept after its month; 0 for not counted at all
    quarantine_after  an expert that fails so many times in a row is quarantined; 0 for never
    quarantine_seconds  how long that lasts; then one more failure brings it back
    weights_folder  a folder besides the pool file's own in which files of added experts may lie
    follow         a pool file whose experts come and go while the service runs; None for the experts that there were
    log            "json" for a line about every request, or "none"
    log_file       where those lines go; None for the standard error of the ingress
    log_prompts    whether the lines, and traces that are sent, hold what was asked
    traces         "metadata" for traces in the store without texts, "text" with what was asked and answered, or "off";
                   `symmoe serve` and a Serve config that does not say have "metadata"
    traces_most    traces that are kept; beyond that the oldest give way
    traces_seconds  how long they are kept
    console        whether the console stands at /console
    """

    replicas: int = 1
    least: int | None = None
    cpus: float | None = None
    accelerators: float | None = None
    idle: float = 600.0
    reward_replicas: int = 1
    reward_least: int | None = None
    reward_cpus: float = 1.0
    reward_accelerators: float | None = None
    slowest_verdict: float = 10.0
    patience: float = 5.0
    longest_wait: float = 60.0
    deadline: float = 300.0
    most_waiting: int = 1024
    most_open: int = 1024
    key_share: float = 0.25
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    strict: bool = False
    most_bytes: int = 1 << 20
    image_bytes: int = 16 << 20
    image_urls: bool = False
    most_choices: int = 16
    amortise: float = 4.0
    stall: float = 60.0
    slowest_load: float = 900.0
    grace: float = 60.0
    most_file_bytes: int = 200 << 20
    most_files: int = 1000
    most_files_bytes: int = 4 << 30
    file_seconds: float = 30 * 86400.0
    most_open_batches: int = 50
    most_batch_lines: int = 50_000
    most_batch_records: int = 1000
    batch_records_seconds: float = 30 * 86400.0
    batch_lines_open: int = 256
    batch_bytes_open: int = 16 << 20
    batch_window: float = 86400.0
    batch_lease: float = 15.0
    cache_seconds: float = 0.0
    cache_entries: int = 10_000
    usage_seconds: float = 400 * 86400.0
    quarantine_after: int = 5
    quarantine_seconds: float = 300.0
    weights_folder: str | None = None
    follow: str | None = None
    log: str = "none"
    log_file: str | None = None
    log_prompts: bool = False
    traces: str = "off"
    traces_most: int = 10_000
    traces_seconds: float = 7 * 86400.0
    console: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise JobError(f"the setting {field.name} is {value}: it must be a number from 0 up, and finite")
