"""Helpers for all other packages: files, progress, drawing, numerics, random states, checks."""
