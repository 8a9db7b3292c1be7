"""What the tests of the page share: models, tasks, a photo, and the page itself."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from planted_tasks import ATTRIBUTES, EXPRESSION, SIZE, Told, grey, plant, shape, upright_face
from served_page import Page, served
from torch import nn

from fra.crop import detectors
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.mask_decoder import DecoderConfig
from fra.models.region_head import RegionHead, RegionHeadConfig
from fra.tasks.landmarks import Landmarks
from fra.weights.load import encoder_metadata, save_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run with four regions, untrained."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("runs") / "tiny"
    encoder = Encoder(EncoderConfig(name="resnet10_quarter", image_size=SIZE, last_stride=1))
    config = RegionHeadConfig(regions=4, hidden=32, out=16, decoder=DecoderConfig(width=32))
    head = RegionHead(encoder.channels, config)
    nn.init.normal_(head.prototypes)
    out.mkdir()
    save_weights(out / "encoder.safetensors", encoder.backbone, encoder_metadata(encoder))
    online = nn.ModuleDict({"encoder": encoder, "region_head": head})
    save_weights(out / "model.safetensors", online, encoder_metadata(encoder) | {"regions": asdict(config)})
    return out


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, run: Path) -> list[Path]:
    """Three tasks that say the same of every face."""
    out, encoder = tmp_path_factory.mktemp("tasks"), run / "encoder.safetensors"
    says = shape([[0.5, -0.5]])
    return [
        plant(out / "feel", EXPRESSION, "synthetic", encoder, says=torch.tensor([0.25, 0.7, 0.05]).log()),
        plant(out / "looks", ATTRIBUTES, "synthetic", encoder, says=torch.tensor([1.0, -1.0, 3.0])),
        plant(out / "where", Landmarks(68), "synthetic", encoder, says=says),
    ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    """A detector that finds two drawn faces in photos of 200 x 90."""
    monkeypatch.setitem(detectors.DETECTORS, "told", Told)
    faces = {(200, 90): [upright_face(5, 9, 48), upright_face(105, 20, 48, score=0.7)]}
    monkeypatch.setattr(Told, "faces", faces, raising=False)
    return Told


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture = grey(200, 90)
    picture[:, 9:57, 5:53] = draw_face(1, size=48).image
    picture[:, 20:68, 105:153] = draw_face(2, size=48).image
    write_image(tmp_path / "photo.png", picture)
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def page(run: Path, tasks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """`fra app` on photos that are faces, in a process of its own, where other machines are out of reach."""
    words = [word for task in tasks for word in ("--task", str(task))]
    with served(tmp_path_factory.mktemp("page"), "--model", str(run), "--detector", "none", *words) as page:
        yield page
