"""Experts while the service runs: which may be asked, which joined later, and where that is kept."""
