"""`fra app` in a process of its own, where other machines are out of reach, and a browser for it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Run by python before `fra`: whatever asks for another machine is said, and refused.
GUARD = """
import socket, sys
def refuse(real, host):
    def guarded(*given, **more):
        if host(given) not in ("127.0.0.1", "localhost", "::1", None):
            print("ASKED", given, file=sys.stderr, flush=True)
            raise OSError("no network in this test")
        return real(*given, **more)
    return guarded
address = lambda given: given[1][0] if isinstance(given[1], tuple) else None
socket.socket.connect = refuse(socket.socket.connect, address)
socket.socket.connect_ex = refuse(socket.socket.connect_ex, address)
socket.getaddrinfo = refuse(socket.getaddrinfo, lambda given: given[0])
from fra import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Page:
    url: str
    process: "subprocess.Popen[str]"
    temporary: Path
    errors: Path


@contextmanager
def served(folder: Path, *words: str) -> Iterator[Page]:
    """The page of these further arguments; `folder` is its folder for temporary files, and has its errors."""
    environment = {**os.environ, "TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"}
    command = ["app", "--port", "0", "--device", "cpu", *words]
    with open(folder / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", GUARD, *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, (folder / "errors.txt").read_text()
    yield Page(found[0], process, folder, folder / "errors.txt")
    process.kill()
    process.wait()
    process.stdout.close()


@contextmanager
def browser(*flags: str) -> Iterator[Any]:
    """Debian's Chromium, driven by playwright; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    usual: Sequence[str] = ("--no-sandbox", "--disable-gpu", "--no-proxy-server")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=[*usual, *flags])
        yield chromium
        chromium.close()


def left_behind(page: Page) -> list[Path]:
    return [
        path for path in page.temporary.rglob("*") if path.is_file() and path != page.errors and path.stat().st_size
    ]
