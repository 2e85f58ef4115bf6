"""Kubernetes manifests: the values of an installation, the chart that they fill in, and what a change comes to."""
