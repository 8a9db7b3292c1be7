"""Photos shared out to the machines of a Ray cluster; results come back in the order of the photos.

Photos and output lie on a file system that all machines see under the same path; only what is found (and packed crops)
travels.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fra.crop.cut import Photo
from fra.crop.workers import in_order
from fra.files import MARK
from fra.system.printable import counted
from fra.system.processes import LOOK, Lost
from fra.system.stopping import Stopped, listen
from fra.system.text import install

PATIENCE = 60.0
"""Seconds without any machine (ours: a head that is started again is back by then)."""
Found = TypeVar("Found")
WAITING = 2  # chunks in flight for each core of the cluster: enough that none idles while results travel


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray, joined to a cluster for as long as the block lasts.

    `address` is Ray's: `HOST:6379`, `ray://HOST:10001`, `auto` for the cluster that this machine is in, or `local` for
    one of its own. ValueError in one line when there is no Ray or no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--cluster needs Ray: {install('cluster')}") from error
    where: dict[str, Any] = {"include_dashboard": False} if address == "local" else {"address": address}
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon and port.isdigit():  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address}: start one there with `ray start --head`, or use --cluster local"
        ) from error
    except SystemExit as stop:
        raise Stopped(status=128 + signal.SIGTERM) from stop
    listen()  # Ray has taken SIGTERM
    try:
        yield ray
    finally:
        ray.shutdown()


def on_cluster(
    chunks: Iterable[list[Photo]],
    work: Callable[[list[Photo]], Found],
    out: Path | None,
    ray: Any,
    *,
    quiet: bool = True,
) -> Iterator[tuple[int, Found]]:
    """For each chunk its number of photos and what `work` makes of it, in order, by one task for each chunk on the
    cores of the cluster that is `joined`.

    `work` and what it makes travel, so both must be picklable. ValueError in one line when a machine does not see
    the folder `out`, which a command has claimed, Lost when the cluster loses a part of the work. What each node has
    done is told at the end, unless `quiet`. Results that are not asked for hold the work up: never more than WAITING
    chunks for each core are under way.
    """
    out = out.absolute() if out else None
    task = ray.remote(num_cpus=1, max_retries=3)(_timed)
    done: dict[str, Done] = {}

    def submit(chunk: list[Photo]) -> Any:
        return task.remote(out, work, [replace(photo, path=photo.path.absolute()) for photo in chunk])

    def made(work: Any) -> Found:
        try:
            silent = 0.0
            while not ray.wait([work], timeout=LOOK)[0]:
                silent = 0.0 if _has_cores(ray) else silent + LOOK
                if silent > PATIENCE:
                    raise Lost("no machine is left in the cluster: fix it, then run the same command with --resume")
            node, photos, seconds, found = ray.get(work)
            done.setdefault(node, Done()).add(photos, seconds)
            return found
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise Lost(
                f"the cluster lost part of the work ({type(error).__name__}), most often because memory ran out: "
                "fix it, then run the same command with --resume"
            ) from error

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from in_order(chunks, submit, made, room=WAITING * cores)
    if not quiet:
        print("\n".join(f"{node}: {each}" for node, each in sorted(done.items())))


def _has_cores(ray: Any) -> bool:
    """Whether a machine is there that could do the work."""
    return any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes())


@dataclass
class Done:
    """What a node has done."""

    photos: int = 0
    seconds: float = 0.0
    """Of all its cores together."""

    def add(self, photos: int, seconds: float) -> None:
        self.photos, self.seconds = self.photos + photos, self.seconds + seconds

    def __str__(self) -> str:
        return f"{counted(self.photos, 'photo')}, {self.photos / max(self.seconds, 1e-9):.1f} a second and core"


def _timed(
    out: Path | None, work: Callable[[list[Photo]], Found], photos: list[Photo]
) -> tuple[str, int, float, Found]:
    """What one core of the cluster does, with the name of its node and the seconds that it took."""
    import ray

    began = time.perf_counter()
    found = in_sight_of(out, work, photos)
    node = f"{socket.gethostname()} (node {ray.get_runtime_context().get_node_id()[:8]})"
    return node, len(photos), time.perf_counter() - began, found


def in_sight_of(out: Path | None, work: Callable[[list[Photo]], Found], photos: list[Photo]) -> Found:
    """The work, on a machine of the cluster. ValueError when its machine does not see `out`."""
    if out is not None and not (out / MARK).is_file():
        raise ValueError(f"{socket.gethostname()} cannot see {out}: all machines must share its file system")
    return work(photos)
