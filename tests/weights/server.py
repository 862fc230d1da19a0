"""A server of one file with configurable failures, for the tests of downloads."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "weights.bin"
CONTENT = bytes(range(256)) * 4096


@dataclass
class Behavior:
    """The behavior of the server; can be changed between requests.

    ``requests`` and ``conditions`` have what the headers Range and If-Range of each request said,
    None where it had none.
    """

    content: bytes = CONTENT
    ranges: bool = True
    validators: bool = True
    honors_if_range: bool = True
    length: bool = True
    # For each of the next responses, the bytes sent before the connection breaks.
    breaks: list[int] = field(default_factory=list)
    # For each of the next responses, its status; later ones have the file.
    statuses: list[int] = field(default_factory=list)
    # Seconds between the two halves of a response.
    pause: float = 0.0
    requests: list[str | None] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    behavior: Behavior

    def do_GET(self) -> None:
        told, asked = self.behavior, self.headers.get("Range")
        told.requests.append(asked)
        told.conditions.append(self.headers.get("If-Range"))
        if self.path == "/moved":
            self._head(302, {"Location": f"/{NAME}", "Content-Length": "0"})
            return
        if self.path != f"/{NAME}":
            self._head(404, {"Content-Length": "0"})
            return
        if told.statuses:
            self._head(told.statuses.pop(0), {"Content-Length": "0"})
            return
        content, status, headers = told.content, 200, {}
        unchanged = self.headers.get("If-Range", told.tag) == told.tag
        if asked and told.ranges and (unchanged or not told.honors_if_range):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if start >= len(content):
                unsatisfied = {"Content-Range": f"bytes */{len(content)}"} if told.length else {}
                self._head(416, {"Content-Length": "0", **unsatisfied})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if told.validators:
            headers["ETag"] = told.tag
        if told.length:
            headers["Content-Length"] = str(len(content))
        self._head(status, headers)
        sent = content[: told.breaks.pop(0)] if told.breaks else content
        told.sent.append(len(sent))
        half = len(sent) // 2
        self.wfile.write(sent[:half])
        time.sleep(told.pause)
        self.wfile.write(sent[half:])
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        # A client that disconnects early, as in the tests, is not an error.
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@contextmanager
def serving(behavior: Behavior) -> Iterator[str]:
    """Serve the file; yield its URL."""
    handler = type("Handler", (_Handler,), {"behavior": behavior})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
