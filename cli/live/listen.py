"""Serve the figures of `xtrace top` to Prometheus, from a thread: no reader can hold up the trace.

There is one writer, which replaces the text after each period; a reader gets the last one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from xtrace.cli.live.openmetrics import CONTENT_TYPE, PLAIN_CONTENT_TYPE, Totals, exposition
from xtrace.probes.errors import TraceError

LOOPBACK = "127.0.0.1"
_ADDRESS = re.compile(r"(?:(\[[0-9a-fA-F:]+\]|[0-9A-Za-z.-]+):)?(\d{1,5})", re.ASCII)
#: A client that neither asks nor reads for so long is left.
_TIMEOUT_S = 2.0
_PATHS = ("/", "/metrics")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: the host as a name or an address, and the port; 0 is any."""

    host: str
    port: int


def address_of(text: str) -> Address:
    """Parse ``9717``, ``127.0.0.1:9717`` or ``[::1]:9717``; without a host, only this one is served.

    Raises:
        ValueError: it is none of these.
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or not 0 <= int(found[2]) <= 65535:
        raise ValueError(f"{text!r} is not an address such as 9717, 127.0.0.1:9717 or [::1]:9717")
    return Address((found[1] or LOOPBACK).strip("[]"), int(found[2]))


class Served:
    """What is served: replaced as a whole."""

    def __init__(self) -> None:
        self.show(Totals())

    def show(self, totals: Totals) -> None:
        """Serve these figures from now on."""
        self.texts = {is_open: exposition(totals, is_open=is_open).encode() for is_open in (True, False)}


@contextmanager
def listening(address: Address) -> Iterator[tuple[Served, str]]:
    """Serve figures at an address, and yield what takes them, and the URL.

    Raises:
        TraceError: the address cannot be used.
    """
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version = "xtrace"
        sys_version = ""

        def do_GET(self) -> None:
            """Answer with the last figures."""
            is_known = self.path.partition("?")[0] in _PATHS
            is_open = "application/openmetrics-text" in self.headers.get("Accept", "")
            body = served.texts[is_open] if is_known else b"see /metrics\n"
            self.send_response(200 if is_known else 404)
            self.send_header("Content-Type", CONTENT_TYPE if is_open else PLAIN_CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: standard error is the user's."""

    class Server(HTTPServer):
        import socket

        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Leave a client that went away."""

    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        server = Server((address.host, address.port), Handler)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise TraceError(f"{host}:{address.port}: cannot listen there: {said}") from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield served, f"http://{host}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_TIMEOUT_S)
