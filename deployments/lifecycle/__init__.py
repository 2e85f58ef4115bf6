"""Experts while the service runs: which may be asked, which are kept from it, which came later, and who remembers."""
