"""Benchmarks of the library and the service, for `symmoe bench` only."""
