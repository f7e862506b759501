"""A real HTTP receiver of OpenLineage events."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """Takes events; may hang, or answer with another status."""

    def __init__(self, status=201, hangs=False):
        self.received, self.headers, self.released = [], [], threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hangs:
                    self.server.released.wait()
                self.server.received.append((self.path, json.loads(body)))
                self.server.headers.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.shutdown()
        self.server_close()
