"""The ONNX Runtime backend; the entry point refers to its class in `backend`."""
