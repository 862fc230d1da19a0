"""A server of several files whose answers can be given in advance, for tests of URLs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """The files by path, and what goes wrong with the next requests for a path.

    A failure is a status (an int), ``"break"``: half of the content, ``"hang"``: nothing until the
    test ends, or ``"drip"``: bytes one by one.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, list[int | str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[str | None] = field(default_factory=list)
    honors_ranges: bool = True
    ended: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.requests[path] += 1
        asked = self.headers.get("Range")
        site.ranges.append(asked)
        failures = site.failures.get(path, [])
        failure = failures.pop(0) if failures else None
        if failure == "hang":
            site.ended.wait(20)
            self.close_connection = True
        elif isinstance(failure, int):
            self._send(failure, b"")
        elif path not in site.files:
            self._send(404, b"")
        else:
            content, status = site.files[path], 200
            if asked and site.honors_ranges:
                content = content[int(asked.removeprefix("bytes=").removesuffix("-")) :]
                status = 206
            self._send(status, content, failure)

    def _send(self, status: int, content: bytes, failure: object = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if failure == "break":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif failure == "drip":
            for byte in content:
                if self.site.ended.is_set():
                    break
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        else:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@contextmanager
def serving_site(site: Site) -> Iterator[str]:
    """Serve the files; yield the URL of the server."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        site.ended.set()
        server.shutdown()
        server.server_close()
