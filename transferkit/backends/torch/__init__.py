"""The PyTorch backend: `backend` is what the entry point names."""
