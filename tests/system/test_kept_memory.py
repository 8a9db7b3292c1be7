"""Freed memory is used again: by whoever imports fra, in every command, and in the workers that it forks."""

import os
import platform
import subprocess
import sys

import pytest

from fra.system import memory
from fra.system.memory import SETTINGS, keep_freed_memory

FAULTS = """
import os, resource, torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, beyond the 32 that glibc learns to keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def after_a_while():
    for _ in range(12):  # until the fragments beside aligned pieces have filled glibc's caches of small ones
        faults()
    return faults()

print(after_a_while(), flush=True)
if (child := os.fork()) == 0:
    print(after_a_while(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
PAGES = 2**26 // 4096
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")


def faults_after(begin: str, **environment: str) -> list[int]:
    """Pages fetched to fill 64 MiB once more: in a process that has done `begin`, and in its fork."""
    clean = {key: value for key, value in os.environ.items() if key not in (*SETTINGS, "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", begin + FAULTS]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()[-2:]]


@glibc
@pytest.mark.parametrize("begin", ["import fra", "from fra.cli import main; main(['--version'])"])
def test_pages_are_fetched_once(begin: str) -> None:
    if begin != "import fra":
        begin = f"try:\n    {begin}\nexcept SystemExit:\n    pass"
    assert max(faults_after(begin)) < PAGES / 50


@glibc
def test_who_has_set_malloc_otherwise_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(faults_after("import fra", MALLOC_MMAP_THRESHOLD_="131072")) >= PAGES / 513  # at least one a huge page
    for name, value in (*((name, "131072") for name in SETTINGS), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not keep_freed_memory()


def test_where_malloc_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


def test_an_older_glibc_is_given_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    class Older:
        @staticmethod
        def mallopt(what: int, value: int) -> int:
            asked.append((what, value))
            return int(value <= 2**25)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Older)
    assert keep_freed_memory()
    assert asked == [(-3, 2**30), (-3, 2**25), (-1, -1)]
