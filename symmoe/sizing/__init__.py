"""How much memory a pool's experts need, from their configs alone: nothing is downloaded and no model loaded."""
