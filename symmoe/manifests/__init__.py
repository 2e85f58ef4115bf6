"""Kubernetes manifests: built from kustomizations without kustomize, and sized for a pool."""
