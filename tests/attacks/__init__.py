"""One file an attack: what was tried against the service and the commands, and that it no longer works."""
