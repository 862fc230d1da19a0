"""Helpers shared by all other packages: atomic file writing, progress bars, drawing."""
