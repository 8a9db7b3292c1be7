"""A command that is called again and again in one process leaves nothing behind: a service or notebook lives for weeks.

Counted are live objects, files, threads and what is called at exit. Memory, and numbers and texts, become steady only
after dozens of calls: scripts/soak.py watches them.
"""

import atexit
import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import SETTINGS

from fra import cli
from fra.files import read_tensors, write_tensors
from fra.weights.load import load_encoder
from scripts.soak import Held, growth

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc")

SMALL = "--device", "cpu", "--quiet"
TINY = [word for setting in SETTINGS["byol"] for word in ("--set", setting)]
ONE_EPOCH = "--precision", "32", "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5", *TINY
COMMANDS: dict[str, tuple[str, ...]] = {
    "crop": ("crop", "FACES", "--workers", "1", "--quiet"),
    "crop with workers": ("crop", "FACES", "--detector", "none", "--workers", "2", "--quiet"),
    "predict": ("predict", "FACES", "--task", "laptop_age", "--detector", "none", *SMALL),
    "embed": ("embed", "FACES", "--detector", "none", *SMALL),
    "regions": ("regions", "laptop", "--faces", "FACES", *SMALL),
    "data synthetic": ("data", "synthetic", "--count", "10", "--size", "32", "--workers", "1", "--quiet"),
    "pretrain": ("pretrain", "smoke/resnet10_half.byol", *SMALL, *ONE_EPOCH, "--faces", "FACES", "--workers", "1"),
    "transfer": (
        "transfer",
        "smoke/synthetic_expression",
        "--encoder",
        "laptop",
        "--data",
        "DATA",
        "--no-control",
        *SMALL,
    ),
    "export": ("export", "laptop", "--format", "timm", "--quiet"),
}


def grown_by(work: Callable[[], object], *, calls: int = 3) -> list[str]:
    """What grows in `calls` calls, and in as many again, after two in which libraries fill what they keep."""
    work()
    work()
    found: dict[str, str] = {}
    for _ in range(2):
        before = Held.now()
        for _ in range(calls):
            work()
        grown = {each.partition(" ")[0]: each for each in growth(before, Held.now(), calls)}
        found = {name: text for name, text in grown.items() if name not in ("memory", "blocks")}
        if not found:
            break
    return list(found.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leaves_nothing_behind(name: str, few_faces: Path, tmp_path: Path) -> None:
    shutil.copytree(few_faces / "images", tmp_path / "faces", ignore=lambda _, names: sorted(names)[12:])
    given = {"FACES": str(tmp_path / "faces"), "DATA": str(few_faces)}
    words, out = [given.get(word, word) for word in COMMANDS[name]], tmp_path / "out"

    def call() -> None:
        assert cli.main([*words, "--out", str(out)]) == 0
        shutil.rmtree(out)

    assert grown_by(call) == []


def test_a_refused_command_leaves_nothing_behind(few_faces: Path, tmp_path: Path) -> None:
    for words in (
        ["regions", "lptop", "--faces", str(few_faces)],
        ["crop", str(tmp_path / "nothing")],
        ["pretrain", "smoke/resnet10_half.byol", "--faces", str(few_faces / "images"), "--set", "batch_size=1"],
    ):
        assert grown_by(lambda words=words: cli.main([*words, "--out", str(tmp_path / "x")])) == []


def test_reading_weights_leaves_nothing_behind(tmp_path: Path) -> None:
    tensors = {f"{number}": torch.zeros(300 + number) for number in range(60)}
    write_tensors(tmp_path / "x.safetensors", tensors, {})
    most = {lambda: read_tensors(tmp_path / "x.safetensors"): 10, lambda: load_encoder("laptop", quiet=True): 60}
    for read, blocks in most.items():
        read()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(20):
            read()
        gc.collect()
        assert sys.getallocatedblocks() - before < 20 * blocks


def test_what_leaks_is_seen() -> None:
    kept: list[object] = []
    forget = kept.clear
    for name, leak in {
        "objects": lambda: kept.extend([] for _ in range(20)),
        "files": lambda: kept.append(os.open(os.devnull, os.O_RDONLY)),
        "at_exit": lambda: atexit.register(forget),
    }.items():
        assert [each.partition(" ")[0] for each in grown_by(leak)] == [name], name
    for number in kept:
        if isinstance(number, int):
            os.close(number)
    atexit.unregister(forget)
