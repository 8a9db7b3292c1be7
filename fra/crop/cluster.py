"""Photos shared out to the machines of a Ray cluster; results come back in the order of the photos.

Photos and output lie on a file system that all machines see under the same path; only what is found (and packed crops)
travels.
"""

import logging
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fra.crop.cut import Photo
from fra.crop.workers import in_order
from fra.files import MARK
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
    chunks: Iterable[list[Photo]], work: Callable[[list[Photo]], Found], out: Path | None, ray: Any
) -> Iterator[tuple[int, Found]]:
    """For each chunk its number of photos and what `work` makes of it, in order, by one task for each chunk on the
    cores of the cluster that is `joined`.

    `work` and what it makes travel, so both must be picklable. ValueError in one line when a machine does not see
    the folder `out`, which a command has claimed, Lost when the cluster loses a part of the work.
    """
    out = out.absolute() if out else None
    task = ray.remote(num_cpus=1, max_retries=3)(in_sight_of)

    def submit(chunk: list[Photo]) -> Any:
        return task.remote(out, work, [replace(photo, path=photo.path.absolute()) for photo in chunk])

    def made(work: Any) -> Found:
        try:
            silent = 0.0
            while not ray.wait([work], timeout=LOOK)[0]:
                silent = 0.0 if _has_cores(ray) else silent + LOOK
                if silent > PATIENCE:
                    raise Lost("no machine is left in the cluster: fix it, then run the same command with --resume")
            found: Found = ray.get(work)
            return found
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise Lost(
                f"the cluster lost part of the work ({type(error).__name__}), most often because memory ran out: "
                "fix it, then run the same command with --resume"
            ) from error

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return in_order(chunks, submit, made, room=WAITING * cores)


def _has_cores(ray: Any) -> bool:
    """Whether a machine is there that could do the work."""
    return any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes())


def in_sight_of(out: Path | None, work: Callable[[list[Photo]], Found], photos: list[Photo]) -> Found:
    """What one core of the cluster does. ValueError when its machine does not see `out`."""
    if out is not None and not (out / MARK).is_file():
        raise ValueError(f"{socket.gethostname()} cannot see {out}: all machines must share its file system")
    return work(photos)
