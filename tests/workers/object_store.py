"""An S3 server on loopback, and a proxy before it that does to requests what a test asks for."""

from __future__ import annotations

import http.client
import re
import subprocess
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal, NamedTuple

KEY, SECRET = "loopback-key", "loopback-secret-4711"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Otherwise the parts of an upload come without a length, which rclone refuses.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}
BUCKET = "bucket"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_RANGE = re.compile(r"bytes=(\d+)-")
_LENGTH = "Content-Length"


class Answer(NamedTuple):
    """A response in the place of the server's."""

    status: int
    body: str = ""


class Request(NamedTuple):
    """A request that a fault is asked about."""

    method: str
    path: str
    """With its query."""
    offset: int
    """Of the first byte that is asked for."""


Fault = Answer | Literal["cut request", "cut response", "lose response"]
"""Cut: half of the bytes come through, then the connection is reset."""
Judge = Callable[[Request], Fault | None]


def error(status: int, code: str, message: str = "as the test asked") -> Answer:
    """Return an error as S3 words it."""
    return Answer(
        status,
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>",
    )


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Serve the folders in `folder` as buckets; yield the port."""
    (folder / BUCKET).mkdir(parents=True)
    program = Path(sysconfig.get_path("scripts"), "rclone")
    command = f"{program} serve s3 {folder} --addr 127.0.0.1:0 --auth-key {KEY},{SECRET}"
    # With a cache, folders seem empty after one of the empty objects that Arrow puts for them.
    quiet = ["--config", "/dev/null", "--vfs-cache-mode", "off", "--dir-cache-time", "1ms"]
    with subprocess.Popen([*command.split(), *quiet], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        # A pipe that nobody reads would stop the server once it is full.
        reader = Thread(target=deque, args=(lines, 0), daemon=True)
        try:
            port = next(int(found[1]) for line in lines if (found := _ADDRESS.search(line)))
            reader.start()
            yield port
        finally:
            server.terminate()
            # Before its pipe is closed.
            if reader.ident:
                reader.join()


class Proxy:
    """Passes requests on to a server on loopback, except for those that `judge` gives a fault."""

    def __init__(self, target: int, folder: Path) -> None:
        self.judge: Judge = lambda request: None
        self.folder = folder / BUCKET
        """Where the server keeps the files of the bucket."""
        self.requests: list[Request] = []
        self._target = target
        self._server = self._listen(0)
        self.port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def uri(self, path: str = "run") -> str:
        """Return the URI of a folder in the bucket, for an environment with `AWS_ENDPOINT_URL`."""
        return f"s3://{BUCKET}/{path}"

    def reset(self) -> None:
        """Forget the requests so far, and pass all on from here."""
        self.judge = lambda request: None
        self.requests.clear()

    def close(self) -> None:
        """Refuse connections from here on."""
        self._server.shutdown()
        self._server.server_close()

    def reopen(self) -> None:
        """Listen on the same port again."""
        self._server = self._listen(self.port)

    def count(self, method: str) -> int:
        """Return how many requests of a method came."""
        return sum(request.method == method for request in self.requests)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"proxy": self, "target": self._target})
        server = _Server(("127.0.0.1", port), handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients hang up when a test cuts them off."""


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    target: int
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        # One connection a request: after close(), none that is kept open gets through.
        self.close_connection = True
        asked = _RANGE.match(self.headers.get("Range", ""))
        request = Request(self.command, self.path, int(asked[1]) if asked else 0)
        self.proxy.requests.append(request)
        fault = self.proxy.judge(request)
        length = int(self.headers.get(_LENGTH, 0))
        body = self.rfile.read(length)
        if len(body) < length:
            return
        if isinstance(fault, Answer):
            self._send(fault.status, [], fault.body.encode(), len(fault.body))
        else:
            self._forward(body, fault)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)) as onward:
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key != "Expect":
                    onward.putheader(key, value)
            onward.endheaders(body[: len(body) // 2] if fault == "cut request" else body)
            if fault == "cut request":
                return
            response = onward.getresponse()
            data, length = response.read(), int(response.headers.get(_LENGTH, 0))
        if fault == "cut response":
            data, length = data[: len(data) // 2], max(length, 2)
        if fault != "lose response":
            self._send(response.status, response.getheaders(), data, length)

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response_only(status)
        dropped = (_LENGTH.lower(), "transfer-encoding", "connection")
        for key, value in headers:
            if key.lower() not in dropped:
                self.send_header(key, value)
        if status not in (204, 304):
            self.send_header(_LENGTH, str(length or len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on
