"""What many tests share: a folder of drawn faces, and real faces where they are."""

import os
from pathlib import Path

import pytest
import torch

from fra.faces.image import write_image
from fra.faces.synthetic import draw_face


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 drawn faces, 48 px."""
    folder = tmp_path_factory.mktemp("drawn")
    for seed in range(40):
        write_image(folder / f"{seed:03d}.png", draw_face(seed, size=48).image)
    return folder


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """The folder of real faces (FRA_TEST_FACES, or ../shared/faces), or the test is skipped."""
    folder = Path(os.environ.get("FRA_TEST_FACES", Path(__file__).parents[1] / ".." / "shared" / "faces"))
    if not folder.is_dir():
        pytest.skip("no real faces here: set FRA_TEST_FACES to a folder of them")
    return folder


@pytest.fixture(autouse=True)
def _fixed_random_state() -> None:
    torch.manual_seed(0)
