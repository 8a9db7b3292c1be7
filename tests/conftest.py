"""What many tests share: a folder of drawn faces, and real faces where they are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image

if TYPE_CHECKING:
    from running import Starter

    from fra.reproduce.supplement.scales import Scale


LONGEST = (
    "reproduce/test_every_table.py",
    "pretrain/test_pretrain.py",
    "reproduce/test_reproduce.py",
    "faults/test_privacy.py",
    "test_guides.py",
    "pools/test_shards.py",
    "faults/test_kills.py",
    "transfer/alignment/test_alignment.py",
    "faults/test_page.py",
    "test_benchmarks.py",
)
"""Files that begin first, so that no process is left with one of them while the other has nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    root = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(root).as_posix(), len(order)))


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 drawn faces, 48 px."""
    folder = tmp_path_factory.mktemp("drawn")
    for seed in range(40):
        write_image(folder / f"{seed:03d}.png", draw_face(seed, size=48).image)
    return folder


@pytest.fixture(scope="session")
def few_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fra data synthetic` writes for 40 faces of 48 px: 32 to learn from (1 % are none, so one), 8 to test."""
    from fra.data.datasets.synthetic import write

    folder = tmp_path_factory.mktemp("few") / "faces"
    write(folder, 40, size=48)
    return folder


@pytest.fixture
def small_scale(monkeypatch: pytest.MonkeyPatch) -> "Scale":
    """The scale smoke of `fra reproduce`, for as long as the test lasts so small that a run takes about a second."""
    from small_paper import make_small

    from fra.reproduce.supplement.scales import SCALES

    monkeypatch.setitem(SCALES, "smoke", SCALES["smoke"])
    return make_small()


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """The folder of real faces (FRA_TEST_FACES, or ../shared/faces), or the test is skipped."""
    folder = Path(os.environ.get("FRA_TEST_FACES", Path(__file__).parents[1] / ".." / "shared" / "faces"))
    if not folder.is_dir():
        pytest.skip("no real faces here: set FRA_TEST_FACES to a folder of them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no command that it starts, knows or changes the controls of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_random_state() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def starter() -> Iterator["Starter"]:
    """Starts commands quickly, see running.py."""
    from running import Starter

    starter = Starter()
    yield starter
    starter.close()
