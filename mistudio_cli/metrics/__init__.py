"""Metrics for Prometheus, from a collector's snapshot."""
