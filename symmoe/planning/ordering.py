"""In which order a worker runs its experts."""

from __future__ import annotations

from symmoe.planning.problem import Instance, Pieces


def ordered(instance: Instance, worker: int, pieces: Pieces) -> list[int]:
    """A worker's experts in the order of least loading; of equal ones longest first.

    What is ready goes first, with the others of its model; then model by model, each beginning with the expert whose
    first load costs least above a swap. The shortest stand last: when a worker that is done takes work over, it finds
    pieces that nobody has loaded yet, and the imbalance left is small.
    """
    lasting = {e: instance.swap[e] + count * instance.request[e] for e, count in pieces.items()}
    models: dict[int, list[int]] = {}
    for expert in pieces:
        models.setdefault(instance.model[expert], []).append(expert)

    def model_key(model: int) -> tuple[bool, float, int]:
        return instance.running[worker] != model, -sum(lasting[e] for e in models[model]), model

    order: list[int] = []
    for model in sorted(models, key=model_key):
        longest = sorted(models[model], key=lambda e: (-lasting[e], e))
        if instance.running[worker] == model:
            begins = [e for e in longest if e == instance.resident[worker]]
        else:
            begins = [min(longest, key=lambda e: instance.first[e])]
        order += [*begins, *(e for e in longest if e not in begins)]
    return order
