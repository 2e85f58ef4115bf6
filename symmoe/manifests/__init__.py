"""Kubernetes manifests: the values of an installation, the chart that they fill, and the effects of a change."""
