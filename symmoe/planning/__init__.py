"""From recruitments to a plan in which each expert is made ready once."""
