"""Photos shared out to the machines of a Ray cluster; results come back in the order of the photos.

Photos and output lie on a file system that all machines see under the same path; only rows (and packed crops) travel.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fra.crop.cut import Cropper, CropSettings, Made, Photo

WAITING = 2  # chunks in flight for each core of the cluster: enough that none idles while results travel

_croppers: dict[tuple[CropSettings, Path], Cropper] = {}


def connect(address: str) -> Any:
    """Ray, joined to the cluster at Ray's `address`: `HOST:6379`, `ray://HOST:10001`, `auto` for the cluster that this
    machine is in, or `local` for one of its own. ValueError in one line when there is no Ray or no cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported: nothing is reported
    try:
        import ray
    except ImportError as error:
        raise ValueError("--cluster needs Ray: pip install 'facial-region-awareness[cluster]'") from error
    where: dict[str, Any] = {"include_dashboard": False} if address == "local" else {"address": address}
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon and port.isdigit():  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address}: start one there by `ray start --head`, or give --cluster local"
        ) from error
    return ray


def crop_on_cluster(
    chunks: Iterable[list[Photo]], settings: CropSettings, out: Path, ray: Any
) -> Iterator[tuple[int, list[Made]]]:
    """As `crop_in_order`, by one task for each chunk on the cores of the cluster that `connect` joined, and leaves it.

    ValueError in one line when a machine does not see `out`.
    """
    out = out.absolute()
    try:
        cut = ray.remote(num_cpus=1, max_retries=3)(_crop_chunk)
        room = WAITING * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[tuple[int, Any]] = deque()
        for chunk in chunks:
            absolute = [replace(photo, path=photo.path.absolute()) for photo in chunk]
            waiting.append((len(chunk), cut.remote(absolute, settings, out)))
            if len(waiting) >= room:
                yield _result(ray, *waiting.popleft())
        while waiting:
            yield _result(ray, *waiting.popleft())
    finally:
        ray.shutdown()


def _result(ray: Any, count: int, task: Any) -> tuple[int, list[Made]]:
    try:
        return count, ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"the cluster lost a part of the work ({type(error).__name__}), most often for lack of memory: "
            "mend it, then run the same with --resume"
        ) from error


def _crop_chunk(photos: list[Photo], settings: CropSettings, out: Path) -> list[Made]:
    """What one core of the cluster does; its detector stays loaded for the next chunk."""
    if not (out / "crop.yaml").is_file():
        raise ValueError(f"{socket.gethostname()} does not see {out}: all machines must share its file system")
    key = (settings, out)
    if key not in _croppers:
        _croppers.clear()
        _croppers[key] = Cropper(settings, out)
    return _croppers[key].crop(photos)
