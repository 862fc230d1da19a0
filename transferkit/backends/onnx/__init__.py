"""The ONNX Runtime backend; the entry point refers to its class in `backend`."""

from __future__ import annotations

import os

# Since version 1.29, importing ONNX Runtime starts threads that send usage data to its publisher.
# They also keep a forked child from exiting. Whoever has set the variable keeps their choice.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
