"""Packed checkpoints: an expert's tensors in one aligned, checksummed image, on disk or in memory."""
