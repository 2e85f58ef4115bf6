"""Who takes part in a replay: the routers to compare with, and symmoe's own recruiters."""

from __future__ import annotations

from symmoe.evaluation.replay import routers
from symmoe.evaluation.replay.recruiting import fit_symbolic_moe, fit_symmoe

ROUTERS: dict[str, routers.Fit] = {
    "random": routers.fit_random,
    "best_single": routers.fit_best_single,
    "dataset_best": routers.fit_dataset_best,
    "knn": routers.fit_knn,
    "clusters": routers.fit_clusters,
    "ridge": routers.fit_ridge,
    "symbolic_moe": fit_symbolic_moe,
    "symmoe": fit_symmoe,
    "oracle": routers.fit_oracle,
}
