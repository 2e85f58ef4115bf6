"""Formats exchanged by clients and symmoe, each read and written only here, for both commands and service."""
