"""Formats that travel between clients and symmoe, each read and written here only: by commands and by the service."""
