"""Comparison of networks on the same photos, by the same cross-validation."""
