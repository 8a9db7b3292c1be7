"""Whatever shows a face to a network shows it the same pixels."""

from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

from fra.data.framing import Whole
from fra.data.labelled import LabelledFaces
from fra.faces.image import read_image, to_input, write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.mask_decoder import DecoderConfig
from fra.models.region_head import RegionHead, RegionHeadConfig, RegionModel
from fra.pools.unlabelled import open_pool
from fra.pretrain import health
from fra.pretrain.loader import face_batch
from fra.regions import run as regions

SIZE = 24


def test_every_route_from_a_face_to_a_network_gives_the_same_pixels(tmp_path: Path) -> None:
    """Pre-training's centre views, health's side sets, labelled datasets, predictions without a detector, regions."""
    face = tmp_path / "a.png"
    write_image(face, torch.randint(0, 256, (3, 57, 57), dtype=torch.uint8))
    pool, image = open_pool(tmp_path), read_image(face)
    labelled = LabelledFaces("mine", tmp_path, ["a.png"], {"train": torch.tensor([0])}, tasks={}, targets={})
    config = EncoderConfig(name="resnet10_quarter", last_stride=1, image_size=SIZE)
    encoder = Encoder(config)
    head = RegionHead(encoder.channels, RegionHeadConfig(2, 8, 8, 1.0, DecoderConfig(width=8, heads=2)))
    asked: list[Tensor] = []
    model = RegionModel(encoder, head).eval()
    model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    regions._look(model, pool, "cpu", rows=1, known={})
    routes = {
        "pre-training": 255 * face_batch(pool, torch.tensor([0]), size=SIZE)[0],
        "health": 255 * health._read_all([face], SIZE)[0],
        "transfer": labelled.image(0, size=SIZE).float(),
        "predict": Whole().cut(image, torch.zeros(4), None, SIZE)[0].float(),
        "regions": 255 * asked[0][0],
    }
    for name, found in routes.items():
        assert_close(found, to_input(image, SIZE).float(), rtol=0, atol=1e-3, msg=name)


def test_a_face_that_is_not_square_is_shown_by_its_middle_before_training_and_squeezed_by_tasks(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.randint(0, 256, (3, 60, 40), dtype=torch.uint8))
    image = read_image(tmp_path / "a.png")
    middle, whole = to_input(image, SIZE).float(), to_input(image, SIZE, fit="whole").float()
    assert_close(middle, to_input(image[:, 10:50], SIZE).float())
    assert_close(255 * health._read_all([tmp_path / "a.png"], SIZE)[0], middle, rtol=0, atol=1e-3)
    assert_close(Whole().cut(image, torch.zeros(4), None, SIZE)[0].float(), whole)
    assert (middle - whole).abs().max() > 10
