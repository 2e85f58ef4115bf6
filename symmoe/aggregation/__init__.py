"""From weighed candidates to one answer."""
