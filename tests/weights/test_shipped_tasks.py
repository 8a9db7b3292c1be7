"""The trained tasks that come with fra, on drawn faces that they have not seen."""

import pytest
import torch

import fra
from fra.drawing.drawn_face import draw_face
from fra.predict.task_model import TaskModel
from fra.tasks.metrics import inter_ocular_error
from fra.transfer.alignment.certainty import right
from fra.weights.bundled import TASK, read_manifest, shipped_names

UNSEEN = range(5_000, 5_016)
"""landmarks68 learned from drawn faces 0 to 999 too."""


@pytest.fixture(scope="module")
def landmarks() -> TaskModel:
    return fra.load_task_model("landmarks68")


def test_landmarks68_finds_the_places_of_drawn_faces_and_is_sure_where_it_is_right(
    landmarks: TaskModel,
) -> None:
    drawn = [draw_face(seed, size=112) for seed in UNSEEN]
    answers = landmarks.predict([face.image for face in drawn])
    found = torch.tensor([answer["landmarks"] for answer in answers])
    truth = torch.stack([face.points68 for face in drawn]).float()
    assert float(inter_ocular_error(found, truth).mean()) < 6  # 4.8 when it was trained; a mean face has about 15
    assert all(0 <= value <= 1 for answer in answers for value in answer["confidence"])
    sure, hit = torch.tensor([answer["confidence"] for answer in answers]), right(found, truth, (36, 45))
    assert sure[hit].mean() > sure[~hit].mean() + 0.05


def test_landmarks68_is_not_sure_of_noise(landmarks: TaskModel) -> None:
    noise = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    face = draw_face(UNSEEN[0], size=112).image
    of_noise, of_face = (torch.tensor(landmarks.predict(image)["confidence"]).mean() for image in (noise, face))
    assert of_noise < of_face - 0.2


def test_years_come_with_their_interval() -> None:
    answer = fra.load_task_model("laptop_years").predict(draw_face(UNSEEN[0], size=112).image)
    years = answer["years"]
    assert 0 <= years["low"] < years["median"] < years["high"] <= 90
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("name", shipped_names(TASK))
def test_each_says_what_it_was_trained_on_and_how_good_it_is(name: str) -> None:
    said = fra.load_task_model(name).provenance.sentence()
    for word in ("trained on", "test faces", "CC BY 4.0"):
        assert word in said
    assert any(kind in read_manifest(name).results[0]["groups"] for kind in ("race", "gender"))
