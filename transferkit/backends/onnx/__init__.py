"""The ONNX Runtime backend: `backend` is what the entry point names."""
