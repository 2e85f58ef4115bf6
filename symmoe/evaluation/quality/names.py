"""What the ways are called for readers."""

NAMES = {
    "symmoe": "symmoe",
    "best_single": "best single expert, by its record",
    "best_single_hindsight": "best single expert, in hindsight",
    "self_consistency": "self-consistency at symmoe's tokens",
    "random_vote": "random experts, vote",
    "all_vote": "all experts, vote",
    "moa": "Mixture-of-Agents",
    "self_moa": "Self-MoA",
    "symbolic_moe": "Symbolic-MoE as published",
    "symbolic_vote": "its recruiting, vote in place of its aggregator",
    "oracle": "oracle: any expert right",
}
BARS = {
    "best_multi_agent_rival": "above the best of Mixture-of-Agents, Self-MoA and the vote of all, for no more tokens",
    "self_consistency_at_equal_tokens": "above self-consistency at equal tokens",
    "symbolic_moe_as_published": "above Symbolic-MoE as published, for no more tokens",
}
