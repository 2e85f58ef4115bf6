"""Recorded answers of experts, kept as files, on which policies can be tried without asking anybody again."""
