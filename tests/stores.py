"""Stores on this machine: S3 as moto answers, and a web server that fails on purpose."""

import base64
import logging
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
import pytest

KEY, SECRET = "AKIAONLYFORTESTS", "wJalrSecretOfTheTests"
BUCKET = "faces-of-the-tests"


@contextmanager
def s3() -> Iterator[str]:
    """A bucket, with its endpoint and credentials in the environment; yields its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        urllib.request.urlopen(
            f"http://{host}:{port}/moto-api/reset", data=b""
        ).close()  # what another server was given
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield f"s3://{BUCKET}"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@dataclass
class Server:
    """A web server of a folder that answers ranges, and what it was asked."""

    folder: Path
    address: str = ""
    fail: int = 0
    """Every so manieth request is answered 503, and the one after it is cut in the middle; 0: none."""
    password: str = ""
    """What must be given as the password of `user`."""
    down: bool = False
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    broken: int = 0


@contextmanager
def web(folder: Path) -> Iterator[Server]:
    served = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            path = unquote(urlsplit(self.path).path)
            served.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            number = len(served.asked)
            wanted = base64.b64encode(f"user:{served.password}".encode()).decode()
            file = served.folder / path.lstrip("/")
            if served.password and self.headers.get("Authorization") != f"Basic {wanted}":
                return self._say(401)
            if served.down or (served.fail and number % served.fail == 0):
                served.broken += 1
                return self._say(503)
            if not file.is_file():
                return self._say(404)
            content, status, where = file.read_bytes(), 200, {}
            if served.ranges and (range := self.headers.get("Range")):
                first, last = (int(end) for end in range.removeprefix("bytes=").split("-"))
                whole, content, status = len(content), content[first : last + 1], 206
                where = {"Content-Range": f"bytes {first}-{last}/{whole}"}
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), "ETag": f'"{hash(content)}"', **where}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and served.fail and number % served.fail == 1 and len(content) > 1:
                served.broken += 1
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(content)
            return None

        def _say(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
