"""A server that lets nobody through without a login, before one that asks for none: ``login_proxy.py PORT URL``."""

import base64
import http.client
import os
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(BaseHTTPRequestHandler):
    """Passes on what comes with the login in ``PROXY_LOGIN``, as ``user:password``."""

    protocol_version = "HTTP/1.1"
    behind = ""

    def handle_any(self) -> None:
        login = base64.b64encode(os.environ["PROXY_LOGIN"].encode()).decode()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Basic {login}":
            self._answer(401, {"WWW-Authenticate": "Basic"}, b"")
            return
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        dropped = ("host", "authorization", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body, headers | {"Host": self.behind})
        response = connection.getresponse()
        kept = {name: value for name, value in response.getheaders() if name.lower() == "content-type"}
        self._answer(response.status, kept, response.read())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


if __name__ == "__main__":
    Proxy.behind = urllib.parse.urlsplit(sys.argv[2]).netloc
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy).serve_forever()
