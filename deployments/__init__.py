"""symmoe on many workers: everything that knows Ray."""
