"""How much each candidate counts."""
