"""Twenty minutes of attacks on fra, and the table of docs/dev/reliability.md; too long for CI (`make soak`).

    python scripts/soak.py [--seed N] [--minutes 20] [--out docs/dev/reliability.md]

kills    every command that writes is killed at random moments and resumed: the result must equal the uninterrupted one
inputs   files of every kind that fra reads are damaged at random: each is read, or refused in one line that names it
names    photos are called whatever a disk allows: each is counted, and nothing printed moves the cursor
flat     the same work a hundred times: in the second half nothing that the process holds may grow

Everything is drawn, and a function of the seed. Exit status 1 when anything failed; each failure is printed with what
repeats it.
"""

import argparse
import atexit
import ctypes
import gc
import hashlib
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

KILLS, INPUTS, NAMES, ROUNDS = 60, 1000, 300, 100
DEADLINE = 20
"""Seconds that reading one damaged file may take."""
MIDDLE = re.compile("(<!-- soak -->\n).*?(<!-- end of soak -->)", re.DOTALL)


@dataclass
class Line:
    """A row of the table."""

    what: str
    tries: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def failed(self, how: str) -> None:
        self.failures.append(how)
        print(f"FAILED {self.what}: {how}", flush=True)


# --- kills


@dataclass(frozen=True)
class Command:
    """A command that writes, and which of its files must be the same however often it was killed."""

    words: tuple[str, ...]
    results: tuple[str, ...]
    """Patterns below --out."""
    resumes: bool = True


def commands(drawn: Path) -> dict[str, Command]:
    images = str(drawn / "images")
    tiny = "method.head={hidden: 32, out: 16}", "encoder.image_size=32", "views.size=32", "batch_size=8"
    tiny += "health_faces=8", "schedule.epochs=3", "schedule.warmup_epochs=1", "encoder.name=resnet10_quarter"
    settings = tuple(word for setting in tiny for word in ("--set", setting))
    small = "--workers", "0", "--device", "cpu", "--precision", "32"
    return {
        "crop": Command(("crop", images, "--detector", "none", "--size", "64"), ("crops.csv", "crops/**/*.jpg")),
        "crop --shards": Command(
            ("crop", images, "--detector", "none", "--size", "64", "--shards"), ("crops.csv", "shards/*.tar")
        ),
        "pretrain": Command(
            ("pretrain", "smoke/resnet10_half.byol", "--faces", images, *small, *settings), ("encoder.safetensors",)
        ),
        "transfer linear": Command(
            ("transfer", "smoke/synthetic_expression", "--encoder", "laptop", "--data", str(drawn), "--seeds", "2"),
            ("predictions.csv",),
        ),
        "transfer finetune": Command(
            ("transfer", "smoke/synthetic_expression.finetune", "--encoder", "laptop", "--data", str(drawn)),
            ("predictions.csv",),
        ),
        "predict": Command(("predict", images, "--task", "laptop_age", "--detector", "none"), ("predictions.json",)),
        "regions": Command(("regions", "laptop", "--faces", images), ("heatmaps.npz",)),
        "data synthetic": Command(
            ("data", "synthetic", "--count", "150", "--size", "48", "--workers", "1"), ("labels.csv", "images/*"), False
        ),
        "export": Command(("export", "laptop", "--format", "timm"), ("**/*.safetensors",), False),
    }


def run(words: Sequence[str], out: Path, *, kill_after: float | None = None, how: int = signal.SIGKILL) -> int | None:
    """The exit status, None when it was killed before its end; its output is in `out`.log."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with open(f"{out}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fra.cli", *words, "--out", str(out)],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(kill_after or 300)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise RuntimeError(f"signal {how} did not end it within 30 seconds") from None
            return None


def digest(out: Path, patterns: Sequence[str]) -> str:
    total = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(out.glob(pattern)):
            total.update(path.relative_to(out).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def kills(dice: random.Random, work: Path, drawn: Path, until: float) -> list[Line]:
    lines = {name: Line(f"killed at random and resumed: {name}") for name in commands(drawn)}
    expected, lasts = {}, {}
    for name, command in commands(drawn).items():
        out, started = work / f"whole.{len(expected)}", time.monotonic()
        status = run(command.words, out)
        if status != 0:
            lines[name].failed(f"uninterrupted, it ended with {status}: {tail(out)}")
        expected[name], lasts[name] = digest(out, command.results), time.monotonic() - started
    for number in range(KILLS):
        name = list(lines)[number % len(lines)]
        command, line, started = commands(drawn)[name], lines[name], time.monotonic()
        if started > until:
            break
        out, line.tries = work / f"killed.{number}", line.tries + 1
        how = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        moments = [lasts[name] * dice.uniform(0.1, 1.0) for _ in range(dice.choice([1, 1, 2]))]
        try:
            status, resume = None, False
            for moment in [*moments, None]:
                status = run([*command.words, *(["--resume"] if resume else [])], out, kill_after=moment, how=how)
                if status == 0:
                    break
                resume = command.resumes and (out / ".fra-run").exists()
                if not command.resumes:
                    shutil.rmtree(out, ignore_errors=True)
            found = digest(out, command.results)
            if status != 0 or found != expected[name]:
                line.failed(f"try {number}, signal {how} after {moments}: status {status}, {tail(out)}")
            left = [path.name for path in out.rglob(".fra-tmp-*")]
            if left:
                line.failed(f"try {number}: left {left[:3]}")
        except RuntimeError as error:
            line.failed(f"try {number}: {error}")
        line.seconds += time.monotonic() - started
        shutil.rmtree(out, ignore_errors=True)
    return list(lines.values())


def tail(out: Path) -> str:
    with suppress(OSError):
        return " | ".join(Path(f"{out}.log").read_text(errors="replace").splitlines()[-3:])[-300:]
    return ""


# --- damaged inputs


def readers(folder: Path, drawn: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Kind of file -> one that is well, and how it is read."""
    import torch
    from PIL import Image

    from fra.data.datasets import find_dataset
    from fra.data.unlabelled import open_pool
    from fra.faces.image import read_image
    from fra.pretrain.run import load_pretrain_recipe
    from fra.weights.load import load_encoder

    found: dict[str, tuple[Path, Callable[[], object]]] = {}
    picture = Image.open(next((drawn / "images").iterdir())).convert("RGB")
    for ending in ("jpg", "png", "webp", "bmp", "tif"):
        path = folder / f"picture.{ending}"
        picture.save(path)
        found[f"{ending} picture"] = path, lambda path=path: read_image(path)
    for name, file in (
        ("rafdb", "rafdb/basic/EmoLabel/list_patition_label.txt"),
        ("celeba", "celeba/list_attr_celeba.txt"),
        ("300w", "300w/helen/testset"),
        ("wflw", "wflw/WFLW_annotations"),
        ("synthetic", "labels.csv"),
    ):
        root = folder / f"data.{name}"
        source = drawn if name == "synthetic" else drawn / name
        shutil.copytree(source, root if name == "synthetic" else root / name)
        path = (root / file) if (root / file).is_file() else next(
            each for each in sorted((root / file).rglob("*")) if each.suffix in (".pts", ".txt")
        )  # fmt: skip
        found[f"{name}'s list"] = path, lambda name=name, root=root: find_dataset(name)(root)
    listed = folder / "photos.txt"
    listed.write_text("".join(f"{each}\n" for each in sorted((drawn / "images").iterdir())))
    found["list of faces"] = listed, lambda: open_pool(listed).image(0)
    recipe = folder / "recipe.yaml"
    shipped = Path(sys.modules["fra"].__file__ or "").parent / "recipes" / "laptop" / "pretrain"
    recipe.write_bytes((shipped / "resnet10_half.fra.yaml").read_bytes())
    found["recipe"] = recipe, lambda: load_pretrain_recipe(str(recipe), [])
    encoder = load_encoder("random:test_resnet", quiet=True)
    foreign = folder / "foreign.pth"
    torch.save({"state_dict": encoder.backbone.state_dict()}, foreign)
    found["checkpoint of others"] = foreign, lambda: load_encoder(f"timm:test_resnet={foreign}", quiet=True)
    ours = folder / "encoder.safetensors"
    ours.write_bytes(
        (Path(sys.modules["fra"].__file__ or "").parent / "weights/laptop/encoder.safetensors").read_bytes()
    )
    found["encoder of ours"] = ours, lambda: load_encoder(str(ours), quiet=True)
    shard = folder / "shard" / "000000.tar"
    shard.parent.mkdir()
    import tarfile

    with tarfile.open(shard, "w") as archive:
        for number, each in enumerate(sorted((drawn / "images").iterdir())[:8]):
            archive.add(each, f"{number:03}{each.suffix}")

    def read_shard() -> None:
        for index in shard.parent.glob("*.npz"):
            index.unlink()
        pool = open_pool(shard)
        for number in range(len(pool)):
            pool.image(number)

    found["shard"] = shard, read_shard
    return found


def damaged(content: bytes, dice: random.Random) -> bytes:
    """One to four random wounds: bytes changed, cut, doubled, moved, blanked, or text that has a meaning somewhere."""
    mutable = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(mutable) or 1), dice.choice([1, 1, 2, 4, 16, 256])
        kind = dice.randrange(7)
        if kind == 0 and mutable:
            mutable[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del mutable[at:]
        elif kind == 2:
            del mutable[at : at + length]
        elif kind == 3:
            mutable[at:at] = mutable[at : at + length] * dice.choice([1, 2, 50])
        elif kind == 4:
            mutable[at : at + length] = bytes(length)
        elif kind == 5:
            mutable[at : at + length] = dice.randbytes(length)
        else:
            words = [
                b"\xff\xfe",
                b"nan",
                b"-1",
                b"1e999",
                b"99999999999999999999",
                b"../../..",
                b"\t",
                b"\r",
                b'"',
                b"\x1b[2J",
            ]
            mutable[at:at] = dice.choice(words)
    return bytes(mutable)


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """What waits for ever fails instead."""

    def over(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def inputs(dice: random.Random, work: Path, drawn: Path, until: float) -> list[Line]:
    lines = []
    for kind, (path, read) in readers(work, drawn).items():
        line, well, started = Line(f"damaged: {kind}"), path.read_bytes(), time.monotonic()
        for number in range(INPUTS):
            if time.monotonic() > until:
                break
            path.write_bytes(damaged(well, dice))
            line.tries += 1
            said = io.StringIO()
            try:
                with deadline(DEADLINE), redirect_stderr(said):
                    read()
            except (ValueError, OSError) as error:
                if isinstance(error, TimeoutError) or "\n" in str(error).strip():
                    line.failed(f"number {number}: {str(error)[:200]!r}")
            except Exception:
                line.failed(f"number {number}: {' | '.join(traceback.format_exc().splitlines()[-3:])[-300:]}")
            if "Traceback" in said.getvalue():
                line.failed(f"number {number}: printed a traceback")
        path.write_bytes(well)
        line.seconds = time.monotonic() - started
        lines.append(line)
    return lines


# --- names


def hostile(dice: random.Random) -> bytes:
    """A file name that a disk allows: bytes without / and NUL, at most 255 with its ending."""
    pieces = [
        *(b"\n", b"\r", b"\t", b"\x1b[2J", b"\x1b]0;owned\x07", b"\x08\x08", b"\x7f", b"\xc2\x85"),
        *(b"\xff\xfe", b"\xed\xa0\x80", b"=1+1", b"@SUM(A1)", b"-rf", b"--help", b"$(id)", b"`id`"),
        *(each.encode() for each in ("\u202egpj", "\u200b", "e\u0301", "\xdf", "\U0001f600")),
        *(bytes([each]) for each in b";'\"\\*? ~#&|"),
        *(b"%s", b"{}", b"[0]", b"CON", b"a" * 200),
    ]
    name = b"".join(dice.choice(pieces) for _ in range(dice.randint(1, 4)))[:240]
    return name + b"%04x" % dice.randrange(2**16) + b".png"


def names(dice: random.Random, work: Path, drawn: Path) -> list[Line]:
    from fra import cli

    line, started = Line("hostile names of photos: crop, predict, regions"), time.monotonic()
    picture = next((drawn / "images").iterdir()).read_bytes()
    folder = os.fsencode(work / "photos")
    os.mkdir(folder)
    made = {hostile(dice) for _ in range(NAMES)}
    for name in made:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(picture)
    line.tries = len(made)
    for words in (
        ["crop", str(work / "photos"), "--detector", "none", "--size", "48", "--workers", "1"],
        ["predict", str(work / "photos"), "--task", "laptop_age", "--detector", "none"],
        ["regions", "laptop", "--faces", str(work / "photos")],
    ):
        out, screen = work / f"out.{words[0]}", io.StringIO()
        with redirect_stdout(screen), redirect_stderr(screen):
            status = cli.main([*words, "--out", str(out)])
        text = screen.getvalue()
        strange = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs")} - {"\n"}
        if status != 0 or strange:
            line.failed(f"{words[0]}: status {status}, printed {strange}: {text[-200:]!r}")
        if f"{len(made)}" not in text.replace(",", ""):
            line.failed(f"{words[0]}: {len(made)} photos are not counted: {text[-200:]!r}")
    line.seconds = time.monotonic() - started
    return [line]


# --- the same again and again


@dataclass(frozen=True)
class Held:
    """What this process holds when all that can be freed has been freed."""

    memory: int
    """Bytes in memory, without what the allocator only keeps for later: glibc, up to 64 MB, as calls come and go."""
    objects: int
    """Python objects that may refer to others: modules, tensors, figures, sessions, closures."""
    blocks: int
    """Pieces of memory that Python's own allocator has handed out: also numbers and short texts."""
    files: int
    threads: int
    at_exit: int
    """Functions that are called when Python ends."""

    @classmethod
    def now(cls) -> "Held":
        if "torch.multiprocessing.reductions" in sys.modules:  # it keeps up to 128 tensors that workers have sent
            sys.modules["torch.multiprocessing.reductions"].shared_cache.free_dead_references()
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        return cls(
            memory=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            objects=len(gc.get_objects()),
            blocks=sys.getallocatedblocks(),
            files=len(os.listdir("/proc/self/fd")),
            threads=len(os.listdir("/proc/self/task")),
            at_exit=atexit._ncallbacks(),  # type: ignore[attr-defined]
        )


def growth(before: Held, after: Held, calls: int) -> list[str]:
    """What has grown in so many calls of the same, more than it may.

    Nothing may grow by one for each call, and memory by 1 % in all; but Python keeps some freed numbers and texts, and
    dictionaries grow in leaps, so that of blocks 60 for each call are nothing (a tensor, or a file, has more).
    """
    most = {"memory": before.memory // 100, "objects": calls - 1, "blocks": 60 * calls}
    differences = {each.name: getattr(after, each.name) - getattr(before, each.name) for each in fields(Held)}
    return [
        f"{name} grew by {difference:,} from {getattr(before, name):,} in {calls} calls"
        for name, difference in differences.items()
        if difference > most.get(name, 0)
    ]


def flat(work: Path, drawn: Path) -> list[Line]:
    from fra import cli

    lines = []
    images = work / "few"
    shutil.copytree(drawn / "images", images, ignore=lambda _, names: sorted(names)[8:])
    for words in (
        ["predict", str(images), "--task", "laptop_age", "--detector", "none", "--quiet"],
        ["regions", "laptop", "--faces", str(images), "--quiet"],
        ["crop", str(images), "--detector", "retinaface", "--workers", "1", "--quiet"],
    ):
        line, started = Line(f"{ROUNDS} times in one process: {words[0]}"), time.monotonic()
        middle = None
        for number in range(ROUNDS):
            line.tries += 1
            out = work / f"flat.{words[0]}"
            with redirect_stdout(io.StringIO()):
                if cli.main([*words, "--out", str(out)]) != 0:
                    line.failed(f"round {number} failed")
            shutil.rmtree(out)
            if number == ROUNDS // 2:  # until then libraries fill what they keep
                middle = Held.now()
        assert middle is not None
        end = Held.now()
        for grown in growth(middle, end, ROUNDS - ROUNDS // 2 - 1):
            line.failed(grown)
        line.what += f" ({middle.memory / 2**20:,.0f} to {end.memory / 2**20:,.0f} MiB, {end.files} open files)"
        line.seconds = time.monotonic() - started
        lines.append(line)
    return lines


# --- all of it


def table(lines: Sequence[Line], seed: int) -> str:
    rows = ["| what | tries | failures | seconds |", "|---|---|---|---|"]
    rows += [f"| {line.what} | {line.tries:,} | {len(line.failures)} | {line.seconds:.0f} |" for line in lines]
    total, failures = sum(line.tries for line in lines), sum(len(line.failures) for line in lines)
    rows.append(f"| **all**, seed {seed} | {total:,} | {failures} | {sum(line.seconds for line in lines):.0f} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20, help="kills and damaged inputs stop at half of it each")
    parser.add_argument("--out", type=Path, help="a page with <!-- soak --> marks whose table is replaced")
    parser.add_argument("--only", nargs="+", choices=("kills", "inputs", "names", "flat"))
    given = parser.parse_args()
    from fra import cli

    wanted = given.only or ("names", "flat", "inputs", "kills")
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as temporary:
        work, drawn = Path(temporary), Path(temporary) / "drawn"
        with redirect_stdout(io.StringIO()):
            assert cli.main(["data", "synthetic", "--count", "60", "--size", "64", "--out", str(drawn)]) == 0
        for number, (name, attack) in enumerate(
            {
                "names": lambda dice, place, _: names(dice, place, drawn),
                "flat": lambda dice, place, _: flat(place, drawn),
                "inputs": lambda dice, place, until: inputs(dice, place, drawn, until),
                "kills": lambda dice, place, until: kills(dice, place, drawn, until),
            }.items()
        ):
            if name in wanted:
                place = work / name
                place.mkdir()
                until = time.monotonic() + 60 * given.minutes / 2
                lines += attack(random.Random(1000 * given.seed + number), place, until)
    text = table(lines, given.seed)
    print(text)
    if given.out:
        page = given.out.read_text(encoding="utf-8")
        given.out.write_text(MIDDLE.sub(lambda found: found[1] + text + found[2], page), encoding="utf-8")
    return 1 if any(line.failures for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
