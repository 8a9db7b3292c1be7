"""Commands as README and guides print them, run in miniature: fewer faces, smaller networks, one epoch."""

import re
import shlex
import shutil
from pathlib import Path

from fra import cli

ROOT = Path(__file__).parents[1]
FACES = "30"
TINY_PRETRAINING = (
    *("--workers", "0", "--set", "batch_size=4", "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5"),
    *("--set", "method.head={hidden: 32, out: 16}", "--set", "max_faces=12", "--set", "health_faces=8"),
)
TINY_FINETUNING = ("--set", "epochs=1", "--set", "min_steps=1")
TINY_STAR = ("--set", "epochs=1", "--set", "min_steps=1", "--set", "falls=[]", "--fraction", "0.2")


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a kind: `sh` is run by tests, `text` shows what cannot be run here (downloads, clusters)."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The lines that start with `fra` in the page's `sh` blocks, without their comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("fra ")]


def miniature(line: str) -> list[str]:
    """The words after `fra` of a command that takes a second instead of minutes or hours."""
    words = shlex.split(line)[1:]
    if "--count" in words:
        words[words.index("--count") + 1] = FACES
    if words[0] == "pretrain":
        words[1] = re.sub(r"^laptop/((?:resnet10_half|vit_tiny)\.(?:fra|byol|swav|lewel))$", r"smoke/\1", words[1])
        words += TINY_PRETRAINING
    if words[0] == "transfer" and words[1].endswith(".finetune"):
        words += TINY_FINETUNING
    if words[0] == "transfer" and words[1].endswith(".star"):
        words += TINY_STAR
    if words[0] == "transfer":
        words.append("--no-control")
    if words[0] == "compare":
        words += ["--set", "epochs=3", "--seeds", "2"]
    if words[0] in ("crop", "transfer", "compare"):
        words += ["--workers", "1" if words[0] == "crop" else "0"]
    if words[0] in ("crop", "pretrain", "transfer", "predict", "embed", "compare", "report", "regions", "export"):
        words.append("--quiet")
    return words


def run(lines: list[str], *, done: tuple[str, ...] = ()) -> None:
    """Run commands in the working folder, but those whose first words are `done`; each must succeed."""
    for line in lines:
        if not line.startswith(done or ("\0",)):
            assert cli.main(miniature(line)) == 0, line


def copy_package(into: Path) -> Path:
    """The package alone, to be changed as a guide says."""
    shutil.copytree(ROOT / "fra", into / "fra", ignore=shutil.ignore_patterns("__pycache__"))
    return into / "fra"
