"""What is measured: one function per suite, from sizes to rows. B faces per batch, S view size."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lightly_methods import LightlyBYOL, LightlySwAV, pil_views
from benchmarks.paired import Row, Work, compare
from benchmarks.steps import (
    HEAD,
    METHODS,
    SWAV,
    UNITS,
    bare_network,
    encoder_for,
    multiply_adds,
    own_step,
    peer_step,
    random_views,
)
from fra.crop.detectors import RetinaFace
from fra.drawing.drawn_face import draw_face
from fra.faces.image import image_from_bytes, jpeg_bytes
from fra.models.encoder import Encoder
from fra.pools.unlabelled import FolderPool
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.method import HeadConfig
from fra.pretrain.plan import multiply_adds_per_pair
from fra.pretrain.run import build_method, load_pretrain_recipe
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.system.printable import counted
from fra.tasks.expression import Expression
from fra.training.threads import most_threads, threads_that_pay
from fra.transfer.linear import TrainingViews, train_head
from fra.transfer.recipes import load_transfer_recipe

Setting = tuple[str, int, int, bool]
NETWORKS: tuple[Setting, ...] = (  # network, view size, batch, in bf16 too
    ("resnet18", 64, 64, True),
    ("resnet18", 128, 16, True),
    ("resnet18", 224, 8, True),
    ("resnet50", 64, 32, True),
    ("resnet50", 128, 32, True),
    ("resnet50", 224, 8, True),
)
OWN_PEERS = {"lightly byol": ("byol", "fra", "lewel"), "lightly swav": ("swav",)}  # what is fair to compare


def step(rounds: int = 3, networks: Sequence[Setting] = NETWORKS) -> list[Row]:
    """Training steps against the bare network, against it with the heads' work counted ("own bound"), and lightly."""
    rows = []
    for name, size, batch, bf16 in [(*row[:3], bf16) for row in networks for bf16 in (False, True)[: 1 + row[3]]]:
        torch.manual_seed(0)
        views = random_views(batch, size)
        byol = LightlyBYOL(name, hidden=HEAD.hidden, out=HEAD.out)
        swav = LightlySwAV(name, hidden=SWAV.head.hidden, out=SWAV.head.out, prototypes=SWAV.prototypes)
        candidates = {
            "bare network": bare_network(name, size, batch, bf16=bf16, channels_last=False),
            "bare network, channels last": bare_network(name, size, batch, bf16=bf16, channels_last=True),
            "lightly byol": peer_step(byol, views, bf16=bf16, channels_last=bf16),
            "lightly swav": peer_step(swav, views, bf16=bf16, channels_last=bf16),
        }
        methods = {title: build(encoder_for(name, size)) for title, build in METHODS.items()}
        bare = multiply_adds(encoder_for(name, size), size) * UNITS
        work = {title: multiply_adds_per_pair(method, sizes=[size, size]) / bare for title, method in methods.items()}
        candidates |= {title: own_step(method, views, bf16=bf16) for title, method in methods.items()}
        setting = f"{name}, {size} px, batch {batch}, {'bf16' if bf16 else 'fp32'}"
        against = ("bare network, channels last", "lightly byol", "lightly swav")
        found = compare("step", setting, candidates, unit="pairs", against=against, rounds=rounds)
        rows += [row for row in found if row.against == against[0] or row.candidate in OWN_PEERS[row.against]]
        rows += [
            Row("step", setting, row.candidate, row.rate, "pairs", "own bound", *_scaled(row, work[row.candidate]))
            for row in found
            if row.candidate in work and row.against == against[0]
        ]
        print(f"  {setting}", file=sys.stderr, flush=True)
    return rows


def _scaled(row: Row, factor: float) -> tuple[float, float, float]:
    return row.ratio * factor, row.low * factor, row.high * factor


def photo_like(size: int, seed: int) -> bytes:
    """A drawn face with noise, as a JPEG of as many bytes a pixel as photographs have (.5 at 128 px, .35 at 256)."""
    face = draw_face(seed, size=size).image
    noise = torch.randn(face.shape, generator=torch.Generator().manual_seed(seed)) * 3
    return jpeg_bytes((face + noise).clamp(0, 255).to(torch.uint8))


def views(rounds: int = 7) -> list[Row]:
    """Two views of a face from its JPEG, on one core, against Pillow and torchvision."""
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for source, size in ((128, 64), (128, 128), (256, 128), (256, 224), (512, 224)):
        files = [photo_like(source, seed) for seed in range(64)]  # a batch
        maker, one_by_one = ViewMaker(ViewsConfig(size=size), seed=0), pil_views(size)

        def ours(maker: ViewMaker = maker, files: list[bytes] = files) -> float:
            images = [image_from_bytes(content, "face.jpg") for content in files]
            maker.make(images, torch.arange(len(files)), epoch=0)
            return 2 * len(files)

        def theirs(make: Callable[[list[bytes]], list[Tensor]] = one_by_one, files: list[bytes] = files) -> float:
            make(files)
            return 2 * len(files)

        both: dict[str, Work] = {"fra": ours, "Pillow and torchvision": theirs}
        setting = f"{source} px JPEG to {size} px views, one core"
        rows += compare("views", setting, both, unit="views", against="Pillow and torchvision", rounds=rounds)
    torch.set_num_threads(threads)
    return rows


def loading(rounds: int = 5) -> list[Row]:
    """Steps fed by one worker from JPEGs against the same steps on one fixed batch, all cores shared."""
    rows = []
    for name, source, size, batch in (("resnet18", 128, 64, 64), ("resnet50", 128, 128, 8)):
        with tempfile.TemporaryDirectory() as folder:
            loader = _loader(Path(folder), source, size, batch, workers=1)
            method, fixed = METHODS["fra"](encoder_for(name, size)), random_views(batch, size)
            both = {
                "with loading": own_step(method, _next_views(loader)),
                "step alone": own_step(method, fixed),
            }
            # Blocks of steps: a block begins with batches made during the other candidate's turn.
            blocks = {title: _repeat(work, 8) for title, work in both.items()}
            setting = f"fra, {name}, {source} px JPEG to {size} px, batch {batch}"
            rows += compare("loading", setting, blocks, unit="pairs", against="step alone", rounds=rounds)
    return rows


def _next_views(loader: FaceLoader) -> Callable[[], list[Tensor]]:
    return lambda: next(loader).views_on(torch.device("cpu"))


def _repeat(work: Work, times: int) -> Work:
    return lambda: sum(work() for _ in range(times))


MEMORY = """
import resource, sys, torch
from benchmarks import suites
name, size, batch, which = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
views = suites.random_views(batch, size)
if which == "lightly byol":
    work = suites.peer_step(suites.LightlyBYOL(name, hidden=4096, out=256), views, bf16=False)
else:
    work = suites.own_step(suites.METHODS[which](suites.encoder_for(name, size)), views)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def memory() -> list[Row]:
    """Peak resident memory that three training steps add, each in a process of its own."""
    rows = []
    for name, size, batch in (("resnet18", 64, 64), ("resnet50", 128, 32)):
        used = {}
        for which in ("lightly byol", *METHODS):
            command = [sys.executable, "-c", MEMORY, name, str(size), str(batch), which]
            used[which] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
        for which, amount in used.items():
            ratio = amount / used["lightly byol"]
            setting = f"{name}, {size} px, batch {batch}, fp32"
            rows.append(Row("memory", setting, which, amount, "MiB", "lightly byol", ratio, ratio, ratio))
    return rows


def cropping(rounds: int = 7) -> list[Row]:
    """RetinaFace on a photo of 640 x 480 with two drawn faces, on one core, against decoding the photo alone."""
    canvas = torch.full((3, 480, 640), 160, dtype=torch.uint8)
    canvas[:, 100:340, 40:280] = draw_face(0, size=240).image
    canvas[:, 120:320, 380:580] = draw_face(1, size=200).image
    photo = jpeg_bytes(canvas)
    detector = RetinaFace(min_score=0.6)

    def find() -> float:
        for _ in range(8):
            detector.find_faces(image_from_bytes(photo, "photo.jpg"))
        return 8

    def only_decode() -> float:
        for _ in range(8):
            image_from_bytes(photo, "photo.jpg")
        return 8

    works = {"retinaface": find, "decoding alone": only_decode}
    return compare("cropping", "640 x 480 JPEG", works, unit="photos", against="decoding alone", rounds=rounds)


def features(rounds: int = 5) -> list[Row]:
    """Features of a frozen encoder in eval mode against the bare network's forward pass."""
    rows = []
    for name, size, batch in (("resnet18", 64, 128), ("resnet50", 128, 32)):
        encoder = encoder_for(name, size).eval()
        faces = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        ready = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)

        def encode(encoder: Encoder = encoder, faces: Tensor = faces) -> float:
            with torch.inference_mode():
                encoder(faces.float() / 255)
            return len(faces)

        def bare(encoder: Encoder = encoder, ready: Tensor = ready) -> float:
            with torch.inference_mode():
                encoder.backbone.forward_features(ready)
            return len(ready)

        both = {"encoder": encode, "bare forward": bare}
        setting = f"{name}, {size} px, batch {batch}"
        rows += compare("features", setting, both, unit="images", against="bare forward", rounds=rounds)
    return rows


def linear(rounds: int = 3) -> list[Row]:
    """Linear evaluation of frozen features: a head for 7 classes, 100 epochs, against computing the features once."""
    encoder = encoder_for("resnet18", 64).eval()
    faces = torch.rand(256, 3, 64, 64)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4096, encoder.channels, generator=draw) / encoder.channels**0.5
    data = TrainingViews(features, torch.randint(0, 7, (1, 4096), generator=draw).expand(2, -1))
    recipe = load_transfer_recipe("laptop/rafdb.linear")
    task = Expression(tuple("abcdefg"))

    def train() -> float:
        train_head(task, task.head(encoder.channels), data, None, data.targets[0], recipe, seed=0)
        return data.count

    def encode() -> float:
        with torch.inference_mode():
            for view in (faces, faces.flip(-1)):
                encoder(view)
        return len(faces)

    works = {"head, 100 epochs": train, "features, with mirror images": encode}
    return compare(
        "linear", "resnet18, 64 px", works, unit="faces", against="features, with mirror images", rounds=rounds
    )


COMMANDS = ("--help", "recipes", "pretrain --help", "transfer --help", "predict --help", "data layout rafdb")


def startup(rounds: int = 3) -> list[Row]:
    """Commands that compute nothing, against starting Python."""

    def run(*arguments: str) -> Work:
        def work() -> float:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            return 1

        return work

    works = {"python -c pass": run("-c", "pass")}
    works |= {f"fra {command}": run("-m", "fra.cli", *command.split()) for command in COMMANDS}
    return compare("startup", "cold process", works, unit="starts", against="python -c pass", rounds=rounds)


def growth(rounds: int = 3) -> list[Row]:
    """FRA's step, pairs per second, as one thing grows; against the smallest."""
    rows = []

    def fra(*, regions: int = 8, size: int = 64, batch: int = 32) -> Work:
        method = FRA(FRAConfig(head=HeadConfig(hidden=1024), regions=regions), encoder_for("resnet18", size))
        return own_step(method, random_views(batch, size))

    families = {
        "regions": {str(regions): fra(regions=regions) for regions in (2, 8, 32, 64)},
        "view size": {str(size): fra(size=size, batch=16) for size in (32, 64, 128)},
        "batch": {str(batch): fra(batch=batch) for batch in (8, 32, 128)},
    }
    for what, works in families.items():
        rows += compare("growth", what, works, unit="pairs", against=next(iter(works)), rounds=rounds)
    rows += compare("growth", "order of an epoch, pool size", _orders(), unit="faces", against="10000", rounds=rounds)
    with tempfile.TemporaryDirectory() as folder:
        loaders = {str(workers): _loader(Path(folder), 128, 64, 64, workers=workers) for workers in (0, 1, 2)}
        works = {workers: _repeat(_loaded(loader), 32) for workers, loader in loaders.items()}
        rows += compare("growth", "loading, workers", works, unit="pairs", against="0", rounds=rounds)
    return rows


def _loaded(loader: FaceLoader) -> Work:
    return lambda: len(next(loader).indices)


def _loader(folder: Path, source: int, size: int, batch: int, *, workers: int) -> FaceLoader:
    """Batches of views from 256 JPEGs, which are written to the folder if they are not there."""
    for seed in range(256):
        if not (path := folder / f"{seed:03}.jpg").exists():
            path.write_bytes(photo_like(source, seed % 32))
    order = EpochBatches(256, batch_size=batch)
    return FaceLoader(FolderPool(folder), ViewMaker(ViewsConfig(size=size), seed=0), order, workers=workers)


def _orders() -> dict[str, Work]:
    def order(count: int) -> Work:
        def work() -> float:
            EpochBatches(count, batch_size=64).epoch(0)
            return count

        return work

    return {str(count): order(count) for count in (10_000, 100_000, 1_000_000)}


def threads(rounds: int = 7) -> list[Row]:
    """A step of the demo's FRA beside busy processes, with one thread, all threads, and what `--threads auto` takes."""
    recipe = load_pretrain_recipe("laptop/demo.fra", [])
    step = own_step(build_method(recipe), random_views(recipe.batch_size, recipe.views.size))

    def with_threads(number: int) -> Work:
        def work() -> float:
            torch.set_num_threads(number)
            return step()

        return work

    rows = []
    for count in range(3):
        with ExitStack() as busy:
            for _ in range(count):
                process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                busy.callback(process.wait)
                busy.callback(process.kill)
            auto = threads_that_pay(step)
            works = {"one thread": 1, "all threads": most_threads(), f"auto, which takes {auto}": auto}
            candidates = {name: with_threads(number) for name, number in works.items()}
            against = ["one thread", "all threads"]
            beside = f"{counted(count, 'busy process', 'busy processes')} beside it"
            rows += compare("threads", beside, candidates, unit="pairs", against=against, rounds=rounds)
    torch.set_num_threads(most_threads())
    return rows


SUITES: dict[str, Callable[[], list[Row]]] = {
    suite.__name__: suite
    for suite in (step, views, loading, memory, cropping, features, linear, startup, growth, threads)
}


def timed(name: str) -> list[Row]:
    started = time.perf_counter()
    rows = SUITES[name]()
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return rows
