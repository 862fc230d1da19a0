"""The TensorFlow backend: `backend` is what the entry point names."""
