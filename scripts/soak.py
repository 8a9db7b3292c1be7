"""Twenty minutes of attacks on fra, and the table of docs/dev/reliability.md; too long for CI (`make soak`).

    python scripts/soak.py [--seed N] [--minutes 20] [--only PART ...] [--out docs/dev/reliability.md]

names    photos are called whatever a disk allows: each is counted, and nothing printed moves the cursor
flat     the same work a hundred times: in the second half nothing that the process holds may grow
inputs   files of every kind that fra reads are damaged at random: each is read, or refused in one line that names it
kills    every command that writes is killed at random moments and resumed: the result must equal the uninterrupted one

Everything is drawn, and a function of the seed. Each part has a share of the minutes, and does less where the machine
is slow: the table then says how much of what was planned. It is written after every step, so that nothing is lost by a
part that fails, Ctrl-C or SIGTERM; and whatever hangs, all ends after one and a half times the minutes. Exit status 1
when anything failed; each failure is printed with what repeats it.
"""

import argparse
import atexit
import ctypes
import gc
import hashlib
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import unicodedata
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, fields
from multiprocessing.process import BaseProcess
from pathlib import Path

from fra.system.printable import printable
from fra.system.processes import SILENT

KILLS, INPUTS, NAMES, ROUNDS = 60, 1000, 300, 100
FEWEST = 20
"""Rounds after which growth can be judged, however long they take."""
SHARES = {"names": 0.05, "flat": 0.45, "inputs": 0.65, "kills": 1.0}
"""When each part ends at the latest, as a share of all minutes."""
DEADLINE, PATIENCE = 20, 120
"""Seconds that reading one damaged file, and that a command may take."""
AT_ONCE = 2
"""Commands that run, and are killed, at the same time."""
MIDDLE = re.compile("(<!-- soak -->\n).*?(<!-- end of soak -->)", re.DOTALL)


@dataclass
class Line:
    """A row of the table."""

    what: str
    planned: int = 0
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
            ("crop", images, "--detector", "none", "--size", "64", "--shards", "--workers", "1"),
            ("crops.csv", "shards/*.tar"),
        ),
        "pretrain": Command(
            ("pretrain", "smoke/resnet10_half.byol", "--faces", images, *small, *settings), ("encoder.safetensors",)
        ),
        "transfer linear": Command(
            (
                "transfer",
                "smoke/synthetic_expression",
                "--encoder",
                "laptop",
                "--data",
                str(drawn),
                "--seeds",
                "2",
                "--no-control",
            ),
            ("predictions.csv",),
        ),
        "transfer finetune": Command(
            (
                "transfer",
                "smoke/synthetic_expression.finetune",
                "--encoder",
                "laptop",
                "--data",
                str(drawn),
                "--no-control",
            ),
            ("predictions.csv",),
        ),
        "predict": Command(("predict", images, "--task", "laptop_age", "--detector", "none"), ("predictions.json",)),
        "regions": Command(("regions", "laptop", "--faces", images), ("heatmaps.npz",)),
        "data synthetic": Command(
            ("data", "synthetic", "--count", "150", "--size", "48", "--workers", "1"), ("labels.csv", "images/*"), False
        ),
        "export": Command(("export", "laptop", "--format", "timm"), ("**/*.safetensors",), False),
    }


FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "lightning_fabric", "fra.cli"] + [
    f"fra.{room}" for room in ("crop.run", "pretrain.run", "transfer.run", "predict.predictor", "regions.run")
]
stopping = threading.Event()
"""The soak itself is to end."""
running: set[BaseProcess] = set()


def run(words: Sequence[str], out: Path, *, kill_after: float | None = None, how: int = signal.SIGKILL) -> int | None:
    """The exit status, None when it was killed before its end; its output is in `out`.log.

    RuntimeError when the signal does not end it, or nothing does. It is forked from a process that has imported what
    commands need, which otherwise takes longer than what they do.
    """
    process = FORKS.Process(target=become, args=([*words, "--out", str(out)], f"{out}.log"))
    process.start()
    running.add(process)
    try:
        if stopping.is_set():
            end(process)
        process.join(kill_after or PATIENCE)
        if not process.is_alive():
            return process.exitcode
        end(process, how)
        process.join(30)
        if process.is_alive():
            end(process)
            process.join()
            raise RuntimeError(f"signal {how} did not end it within 30 seconds")
        if kill_after is None:
            raise RuntimeError(f"it took more than {PATIENCE} seconds")
        return None
    finally:
        running.discard(process)
        if stopping.is_set():
            raise KeyboardInterrupt


def become(words: list[str], log: str) -> None:
    """What a terminal does: a session of its own, and its output somewhere."""
    os.setsid()
    written, nothing = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), os.open(os.devnull, os.O_RDONLY)
    for mine, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(mine, standard)
    sys.argv = ["fra", *words]
    from fra import cli

    sys.exit(cli.main())


def end(process: BaseProcess, how: int = signal.SIGKILL) -> None:
    assert process.pid
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:  # it has ended, or has no session of its own yet
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)


def results(out: Path, patterns: Sequence[str]) -> dict[str, object]:
    """What a command has to give: of JSON the content, of other files a hash, by name."""
    found: dict[str, object] = {}
    for path in sorted(path for pattern in patterns for path in out.glob(pattern)):
        content = path.read_bytes()
        is_json = path.suffix == ".json"
        found[path.relative_to(out).as_posix()] = json.loads(content) if is_json else hashlib.sha256(content).digest()
    return found


def alike(one: object, other: object) -> bool:
    """Equal, but numbers in JSON to five digits: a resumed run cuts batches elsewhere, and floats add up otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-9)
    return one == other


@dataclass(frozen=True)
class Attack:
    """A command that is killed, once or twice, and resumed."""

    number: int
    name: str
    how: int
    moments: list[float]
    """As shares of the time that it takes."""


def kills(dice: random.Random, work: Path, drawn: Path, until: float) -> Generator[Line, None, None]:
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    FORKS.set_forkserver_preload(PRELOADED)
    sys.warnoptions.append(SILENT)  # what killed commands leave is freed by Python's own process, and told at the end
    known = commands(drawn)
    lines = {name: Line(f"killed at random and resumed: {name}") for name in known}
    yield from lines.values()
    attacks = []
    for number in range(KILLS):
        name, how = list(known)[number % len(known)], dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        attacks.append(Attack(number, name, how, [dice.uniform(0.1, 1.0) for _ in range(dice.choice([1, 1, 2]))]))
        lines[name].planned += 1
    expected: dict[str, tuple[dict[str, object], float]] = {}

    def whole(name: str) -> None:
        out, started = work / f"whole.{list(known).index(name)}", time.monotonic()
        try:
            status = run(known[name].words, out)
            if status == 0:
                expected[name] = results(out, known[name].results), time.monotonic() - started
            else:
                lines[name].failed(f"uninterrupted, it ended with {status}: {tail(out)}")
        except RuntimeError as error:
            lines[name].failed(f"uninterrupted: {error}")

    def attempt(attack: Attack) -> None:
        if not stopping.is_set() and time.monotonic() < until and attack.name in expected:
            kill(
                attack, known[attack.name], work / f"killed.{attack.number}", lines[attack.name], *expected[attack.name]
            )

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            list(pool.map(whole, known))
            for attack, _ in zip(attacks, pool.map(attempt, attacks), strict=True):
                yield lines[attack.name]
        except BaseException:
            stopping.set()
            for process in list(running):
                end(process)
            raise


def kill(attack: Attack, command: Command, out: Path, line: Line, expected: dict[str, object], last: float) -> None:
    started = time.monotonic()
    moments = [last * moment for moment in attack.moments]
    try:
        status, resume = None, False
        for moment in [*moments, None]:
            status = run([*command.words, *(["--resume"] if resume else [])], out, kill_after=moment, how=attack.how)
            if status == 0:
                break
            resume = command.resumes and (out / ".fra-run").exists()
            if not command.resumes:
                shutil.rmtree(out, ignore_errors=True)
        if status != 0 or not alike(results(out, command.results), expected):
            line.failed(f"try {attack.number}, signal {attack.how} after {moments}: status {status}, {tail(out)}")
        left = [path.name for path in out.rglob(".fra-tmp-*")]
        if left:
            line.failed(f"try {attack.number}: left {left[:3]}")
    except RuntimeError as error:
        line.failed(f"try {attack.number}: {error}")
    line.tries += 1
    line.seconds += time.monotonic() - started
    shutil.rmtree(out, ignore_errors=True)


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
    from fra.faces.image import read_image
    from fra.pools.unlabelled import open_pool
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


def inputs(dice: random.Random, work: Path, drawn: Path, until: float) -> Generator[Line, None, None]:
    kinds = readers(work, drawn)
    for place, (kind, (path, read)) in enumerate(kinds.items()):
        line, well, started = Line(f"damaged: {kind}", INPUTS), path.read_bytes(), time.monotonic()
        yield line
        ends = started + (until - started) / (len(kinds) - place)
        for number in range(INPUTS):
            if time.monotonic() > ends:
                break
            path.write_bytes(damaged(well, dice))
            line.tries += 1
            wrong = reading_says(read)
            if wrong:
                line.failed(f"number {number}: {wrong}")
        path.write_bytes(well)
        line.seconds = time.monotonic() - started


def reading_says(read: Callable[[], object]) -> str:
    """What is wrong with how a reader takes its file; "" when it gives something, or one line, in time."""
    said, started = io.StringIO(), time.monotonic()
    try:
        with deadline(DEADLINE), redirect_stderr(said):
            read()
    except (ValueError, OSError) as error:
        if "\n" in str(error).strip():
            return f"{str(error)[:200]!r}"
    except Exception:
        return " | ".join(traceback.format_exc().splitlines()[-3:])[-300:]
    if time.monotonic() - started >= DEADLINE:  # readers may take the deadline for a damaged file
        return f"it took more than {DEADLINE} seconds"
    return "printed a traceback" if "Traceback" in said.getvalue() else ""


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


def names(dice: random.Random, work: Path, drawn: Path, until: float) -> Generator[Line, None, None]:
    picture = next((drawn / "images").iterdir()).read_bytes()
    folder = os.fsencode(work / "photos")
    os.mkdir(folder)
    made = {hostile(dice) for _ in range(NAMES)}
    for name in made:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(picture)
    for words in (
        ["crop", str(work / "photos"), "--detector", "none", "--size", "48", "--workers", "1"],
        ["predict", str(work / "photos"), "--task", "laptop_age", "--detector", "none"],
        ["regions", "laptop", "--faces", str(work / "photos")],
    ):
        line, started = Line(f"hostile names of photos: {words[0]}", len(made)), time.monotonic()
        yield line
        status, text = call(*words, "--out", str(work / f"out.{words[0]}"), seconds=max(PATIENCE, until - started))
        line.tries, line.seconds = len(made), time.monotonic() - started
        strange = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs")} - {"\n"}
        if status != 0 or strange:
            line.failed(f"status {status}, printed {strange}: {text[-200:]!r}")
        if f"{len(made)}" not in text.replace(",", ""):
            line.failed(f"{len(made)} photos are not counted: {text[-200:]!r}")


def call(*words: str, seconds: float = PATIENCE) -> tuple[int, str]:
    """The status of a command in this process, and all that it printed. KeyboardInterrupt when a signal ended it."""
    from fra import cli

    screen = io.StringIO()
    with deadline(int(seconds)), redirect_stdout(screen), redirect_stderr(screen):
        status = cli.main(words)
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise KeyboardInterrupt
    return status, screen.getvalue()


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
            at_exit=atexit._ncallbacks(),
        )


def growth(before: Held, after: Held, calls: int) -> list[str]:
    """What has grown in so many calls of the same, more than it may.

    Nothing may grow by one for each call, and memory by 2 % in all; but Python keeps some freed numbers and texts, and
    dictionaries grow in leaps, so that of blocks 100 for each call are nothing.
    """
    most = {"memory": before.memory // 50, "objects": calls - 1, "blocks": 100 * calls}
    differences = {each.name: getattr(after, each.name) - getattr(before, each.name) for each in fields(Held)}
    return [
        f"{name} grew by {difference:,} from {getattr(before, name):,} in {calls} calls"
        for name, difference in differences.items()
        if difference > most.get(name, 0)
    ]


def flat(_: random.Random, work: Path, drawn: Path, until: float) -> Generator[Line, None, None]:
    images = work / "few"
    shutil.copytree(drawn / "images", images, ignore=lambda _, names: sorted(names)[8:])
    pretrain = commands(drawn)["pretrain"].words
    repeated = (
        ("predict", str(images), "--task", "laptop_age", "--detector", "none"),
        ("regions", "laptop", "--faces", str(images)),
        ("crop", str(images), "--detector", "retinaface", "--workers", "1"),
        ("transfer", "smoke/synthetic_expression", "--encoder", "laptop", "--data", str(drawn)),
        (*pretrain, "--faces", str(images), "--workers", "1", "--set", "schedule.epochs=2"),
    )
    for place, words in enumerate(repeated):
        line, started = Line(f"again and again in one process: {words[0]}", ROUNDS), time.monotonic()
        yield line
        ends, out = started + (until - started) / (len(repeated) - place), work / f"flat.{words[0]}"
        half, middle = 0, None
        while line.tries < ROUNDS:
            line.tries += 1
            status, said = call(*words, "--quiet", "--out", str(out))
            shutil.rmtree(out, ignore_errors=True)
            if status != 0:
                line.failed(f"round {line.tries} ended with {status}: {said[-200:]!r}")
                break
            now = time.monotonic()
            if middle is None and line.tries >= FEWEST // 2 and now >= min(ends, (started + ends) / 2):
                middle, half = Held.now(), line.tries
            if middle is None and line.tries == ROUNDS // 2:
                middle, half = Held.now(), line.tries
            if middle is not None and line.tries >= 2 * half and now >= ends:
                break
        line.seconds = time.monotonic() - started
        if middle is not None and line.tries > half:
            after = Held.now()
            for grown in growth(middle, after, line.tries - half):
                line.failed(grown)
            line.what += f" ({middle.memory / 2**20:,.0f} to {after.memory / 2**20:,.0f} MiB, {after.files} open files)"


# --- all of it

PARTS: dict[str, Callable[[random.Random, Path, Path, float], Generator[Line, None, None]]] = {
    "names": names,
    "flat": flat,
    "inputs": inputs,
    "kills": kills,
}


def table(lines: Sequence[Line], seed: int, note: str) -> str:
    rows = ["| what | tries | failures | seconds |", "|---|---|---|---|"]
    for line in lines:
        tries = f"{line.tries:,}" + (f" of {line.planned:,}" if line.tries < line.planned else "")
        rows.append(f"| {line.what} | {tries} | {len(line.failures)} | {line.seconds:.0f} |")
    total, failures = sum(line.tries for line in lines), sum(len(line.failures) for line in lines)
    rows.append(f"| **all**, seed {seed}{note} | {total:,} | {failures} | {sum(line.seconds for line in lines):.0f} |")
    shown = [f"    {printable(f'{line.what}: {how}')}" for line in lines for how in line.failures]
    return "\n".join([*rows, *(["", *shown[:30]] if shown else [])]) + "\n"


class Soak:
    """What has been tried so far, and where it is written."""

    def __init__(self, seed: int, page: Path | None) -> None:
        self.seed, self.page, self.lines = seed, page, list[Line]()

    def save(self, note: str = ", not finished") -> str:
        text = table(self.lines, self.seed, note)
        if self.page:
            page = self.page.read_text(encoding="utf-8")
            written = MIDDLE.sub(lambda found: found[1] + text + found[2], page)
            self.page.write_text(written, encoding="utf-8")
        return text

    def attack(self, name: str, place: Path, drawn: Path, until: float) -> None:
        """One part; what goes wrong with the part itself is a failure too, and the others go on."""
        place.mkdir()
        part = PARTS[name](random.Random(1000 * self.seed + list(PARTS).index(name)), place, drawn, until)
        try:
            for line in part:
                if line not in self.lines:
                    self.lines.append(line)
                self.save()
        except Exception as error:
            traceback.print_exc()
            line = Line(f"{name}: the soak itself")
            self.lines.append(line)
            line.failed(f"{type(error).__name__}: {error}")
        finally:
            part.close()

    def give_up(self) -> None:
        """From another thread, when the main one does not come back."""
        print(self.save(", given up because it did not end"), flush=True)
        for process in list(running):
            end(process)
        os._exit(1)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, help="a page with <!-- soak --> marks whose table is replaced")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    given = parser.parse_args()
    soak, started, note = Soak(given.seed, given.out), time.monotonic(), ""
    guard = threading.Timer(90 * given.minutes + PATIENCE, soak.give_up)
    guard.daemon = True
    guard.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            drawn = Path(temporary) / "drawn"
            assert call("data", "synthetic", "--count", "60", "--size", "64", "--out", str(drawn))[0] == 0
            for name in given.only or PARTS:
                share = 1 if given.only and name == given.only[-1] else SHARES[name]
                soak.attack(name, Path(temporary) / name, drawn, started + 60 * given.minutes * share)
    except KeyboardInterrupt:
        note = ", interrupted"
    print(soak.save(note))
    return 1 if note or any(line.failures for line in soak.lines) else 0


if __name__ == "__main__":
    sys.exit(main())
