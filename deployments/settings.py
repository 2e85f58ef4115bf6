"""What can be set of a service, apart from the pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds and choices of a service. Times are in seconds.

    replicas       expert replicas: engines that run side by side
    least          where load may decide, at least so many replicas, 0 allowed; None for always all
    idle           how long there must be too little load before a replica is ended
    patience       a request that has waited so long makes its expert the next one
    longest_wait   a request that has not begun after so long is turned away
    deadline       a request that is not finished after so long is given up
    most_waiting   requests that may wait at one replica
    most_open      requests that may be open at the ingress
    most_bytes     size of a request's body
    most_choices   the highest `n` of a request
    amortise       an expert's turn may take so many times what the switch to the next one costs
    trust          share of the recruiter's mass from which an expert's answer stands alone
    stall          an engine that takes so long for one step is replaced
    slowest_load   an engine that takes so long to make an expert ready is replaced
    grace          how long open requests may take to finish when the service stops
    """

    replicas: int = 1
    least: int | None = None
    idle: float = 600.0
    patience: float = 5.0
    longest_wait: float = 60.0
    deadline: float = 300.0
    most_waiting: int = 1024
    most_open: int = 1024
    most_bytes: int = 1 << 20
    most_choices: int = 16
    amortise: float = 4.0
    trust: float = 0.5
    stall: float = 60.0
    slowest_load: float = 900.0
    grace: float = 60.0
