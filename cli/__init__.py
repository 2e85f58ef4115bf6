"""The command line: one file per command group, all terminal output in `render`."""
