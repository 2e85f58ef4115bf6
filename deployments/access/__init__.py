"""Who may ask, how much, and what was answered before: keys, limits and the answer cache, all in the store."""
