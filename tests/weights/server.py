"""A server of one file that misbehaves as it is told, for the tests of downloads."""

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
class Behaviour:
    """What the server does; may be changed between requests.

    ``requests`` and ``conditions`` have what the headers Range and If-Range of each request said,
    None where it had none.
    """

    content: bytes = CONTENT
    ranges: bool = True
    validators: bool = True
    honours_if_range: bool = True
    length: bool = True
    # How many bytes each coming answer has before the line breaks; then answers are whole.
    breaks: list[int] = field(default_factory=list)
    # The status of each coming answer; then there is the file.
    statuses: list[int] = field(default_factory=list)
    # Seconds between the first half and the second.
    pause: float = 0.0
    requests: list[str | None] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        told, asked = self.behaviour, self.headers.get("Range")
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
        if asked and told.ranges and (unchanged or not told.honours_if_range):
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
        """Be quiet."""

    def handle(self) -> None:
        # Who hangs up early, as the tests do, is no error of the server's.
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address that the file and nothing else is served under."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
