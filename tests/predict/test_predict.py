"""`fra predict`: faces of photos reach the tasks framed as they were trained, and answers come back in photo pixels."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from planted_tasks import ATTRIBUTES, EXPRESSION, SIZE, Told, grey, plant, shape, upright_face
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_iou

from fra import cli
from fra.crop import detectors
from fra.crop.detectors import Face
from fra.crop.photos import PhotoList
from fra.crop.whole import sized_like_a_crop
from fra.data.datasets import DATASETS, w300
from fra.data.framing import CROPS, FRAMINGS, Aligned, Whole, framing_of
from fra.drawing.drawn_face import draw_face
from fra.faces.geometry import transform_points, whole_box
from fra.faces.image import read_image, write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.predict import predictor as predict
from fra.predict.annotate import Mark, annotate
from fra.predict.predictor import Predictor, Seen, mark, name_tasks, usable, words
from fra.predict.task_model import TaskModel, load_task_model
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.weights.load import encoder_metadata, save_weights

RAFDB = FRAMINGS["rafdb"]
assert isinstance(RAFDB, Aligned)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=SIZE))
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_weights(path, network.backbone, encoder_metadata(network))
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    monkeypatch.setitem(detectors.DETECTORS, "told", Told)
    monkeypatch.setattr(Told, "faces", {}, raising=False)
    return Told


# --- coordinates


@pytest.mark.parametrize(
    "box",
    [(20.0, 30.0, 60.0, 70.0), (-30.0, -10.0, 10.0, 30.0), (85.0, 60.3, 120.0, 99.7), (10.25, 5.0, 12.0, 7.5)],
    ids=["inside", "left and top edge", "right edge, not square", "tiny"],
)
def test_landmarks_come_back_in_the_photos_pixels(
    encoder: Path, tmp_path: Path, told: type[Told], box: tuple[float, ...]
) -> None:
    run = plant(
        tmp_path / "run", Landmarks(68), "synthetic", encoder, says=shape([[-1, -1], [1, 1], [0, 0], [0.5, -0.2]])
    )
    told.faces[(100, 80)] = [Face(torch.tensor(box), None, 0.9)]
    [[seen]] = Predictor([run], detector="told", device="cpu")([grey(100, 80)])
    points = torch.tensor(seen.answers["run"]["landmarks"])[:4]
    # The crop is a square about the box's centre, 1.25 times as long as the box's longer side.
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = 1.25 * max(box[2] - box[0], box[3] - box[1]) / 2
    expected = [[x - half, y - half], [x + half, y + half], [x, y], [x + 0.5 * half, y - 0.2 * half]]
    assert_close(points, torch.tensor(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dataset", ["rafdb", "celeba"])
@pytest.mark.parametrize("turn", [0, 30, -100])
def test_landmarks_of_a_turned_face_come_back_turned(
    encoder: Path, tmp_path: Path, told: type[Told], turn: float, dataset: str
) -> None:
    """A task that always answers the template must answer the detector's five points, however a face is turned."""
    framing = framing_of(dataset)
    assert isinstance(framing, Aligned)
    template = torch.tensor(framing.five_points)
    run = plant(tmp_path / "run", Landmarks(68), dataset, encoder, says=shape((template * 2 - 1).tolist()))
    angle = math.radians(turn)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # The picture's own proportions, so that turned and scaled points are a similarity of the template.
    five = 37 * (template * torch.tensor([framing.aspect, 1.0])) @ rotation.T + torch.tensor([70.0, 50.0])
    told.faces[(120, 90)] = [Face(torch.cat((five.amin(0), five.amax(0))), five, 0.9)]
    [[seen]] = Predictor([run], detector="told", device="cpu")([grey(120, 90)])
    assert_close(torch.tensor(seen.answers["run"]["landmarks"])[:5], five, atol=1e-2, rtol=0)


def test_without_a_detector_landmarks_fill_the_photo(encoder: Path, tmp_path: Path) -> None:
    run = plant(tmp_path / "run", Landmarks(68), "celeba", encoder, says=shape([[-1, -1], [1, 1]]))
    [[seen]] = Predictor([run], detector="none", device="cpu")([grey(178, 218)])
    corners = torch.tensor(seen.answers["run"]["landmarks"])[:2]
    assert_close(corners, torch.tensor([[-0.5, -0.5], [177.5, 217.5]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", [*FRAMINGS, "none"])
def test_the_crop_shows_what_its_matrix_says(name: str) -> None:
    """A white blob in a photo appears where the matrix sends it."""
    framing = FRAMINGS.get(name, Whole())
    centre = torch.tensor([83.0, 64.0])
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(150.0), indexing="ij")
    blob = 255 * torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 18)
    photo = blob.round().to(torch.uint8).expand(3, 120, 150).contiguous()
    five = torch.tensor([[70.0, 52], [94, 58], [80, 68], [67, 78], [86, 83]])  # turned by about 14 degrees
    crop, matrix = framing.cut(photo, torch.tensor([55.0, 30, 105, 95]), five, 48)
    assert crop.shape == (3, 48, 48)
    weight = crop[0].float()
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    found = torch.stack([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    assert_close(found, transform_points(centre, matrix), atol=0.1, rtol=0)


def test_framings_belong_to_datasets_and_others_are_framed_like_crops() -> None:
    assert set(FRAMINGS) <= set(DATASETS)
    assert framing_of("mine") == CROPS
    face = upright_face(10, 20, 50)
    crop, _ = RAFDB.cut(grey(99, 99), face.box, None, 8)  # nothing to align by
    assert_close(crop, CROPS.cut(grey(99, 99), face.box, None, 8)[0])


# --- answers


def test_each_face_gets_its_own_answer_in_photos_of_mixed_sizes(
    encoder: Path, tmp_path: Path, told: type[Told]
) -> None:
    """Drawn faces pasted into larger photos are answered as the faces by themselves."""
    run = plant(tmp_path / "run", EXPRESSION, "synthetic", encoder)
    photos, alone = [], []
    for number, (width, height) in enumerate([(90, 80), (200, 64), (64, 150), (310, 70)]):
        photo, faces = grey(width, height), []
        for place in range(width // 150 + 1):
            drawn = draw_face(10 * number + place, size=48).image
            photo[:, 9 : 9 + 48, 5 + 100 * place : 5 + 100 * place + 48] = drawn
            faces.append(upright_face(5 + 100 * place, 9, 48))
            alone.append(drawn)
        told.faces[(width, height)] = faces
        photos.append(photo)
    answers = [one.answers["run"] for seen in Predictor([run], detector="told", device="cpu")(photos) for one in seen]
    expected = load_task_model(run).predict(alone)
    assert len(answers) == 7
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["expression"] == wanted["expression"]
        for name, share in wanted["probabilities"].items():
            assert answer["probabilities"][name] == pytest.approx(share, abs=0.02)
    assert len({f"{answer['probabilities']['glad']:.3f}" for answer in answers}) == 7


def test_tasks_on_one_encoder_share_its_work(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [plant(tmp_path / "a", EXPRESSION, "synthetic", encoder)]
    runs.append(plant(tmp_path / "b", ATTRIBUTES, "synthetic", encoder))
    runs.append(plant(tmp_path / "c", ATTRIBUTES, "rafdb", encoder))  # sees other pixels
    calls = 0
    forward = Encoder.forward

    def counted(self: Encoder, images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counted)
    together = Predictor(runs, detector="none", device="cpu")
    [[seen]] = together([draw_face(1, size=48).image])
    assert calls == 1  # whole pictures are the same pixels for all three
    for run in runs:
        [[alone]] = Predictor([run], detector="none", device="cpu")([draw_face(1, size=48).image])
        for name, share in alone.answers[run.name]["probabilities"].items():
            assert seen.answers[run.name]["probabilities"][name] == pytest.approx(share, abs=1e-6)
    assert [sorted(group.models) for group in Predictor(runs, device="cpu").groups] == [["a", "b"], ["c"]]


def test_an_answer_in_words_says_what_was_asked_unless_it_was_the_expression() -> None:
    feeling = Expression(("sad", "glad")).answer(torch.tensor([0.1, 0.9]).log(), width=8, height=8)
    age = Expression(("0-2", "3-9"), asks="age").answer(torch.tensor([0.75, 0.25]).log(), width=8, height=8)
    looks = Attributes(("Bald", "Wearing_Hat")).answer(torch.tensor([1.0, 3.0]), width=8, height=8)
    assert words(feeling) == ("glad 90 %", [])
    assert words(age) == ("age 0-2 75 %", [])
    assert words(looks) == ("", ["Wearing Hat", "Bald"])
    face = mark(Seen(upright_face(0, 0, 9), {"a": looks, "b": age, "c": feeling}))
    assert (face.title, face.details) == ("age 0-2 75 %", ("glad 90 %", "Wearing Hat, Bald"))


def test_runs_are_called_by_their_folder_or_by_their_path(tmp_path: Path) -> None:
    for name in ("x/mine", "y/mine", "other"):
        (tmp_path / name).mkdir(parents=True)
    first, second, other = tmp_path / "x/mine", tmp_path / "y/mine", tmp_path / "other"
    assert list(name_tasks([first, other, other])) == ["mine", "other"]
    assert list(name_tasks([first, second])) == [str(first), str(second)]


# --- the command


@pytest.fixture
def photos(tmp_path: Path, told: type[Told]) -> Path:
    """Two photos with faces, one without, a crop and a broken file."""
    folder = tmp_path / "photos"
    for name, width, height in (("a.jpg", 120, 90), ("sub/a.png", 90, 80), ("sub/empty.jpg", 500, 80)):
        photo = grey(width, height)
        photo[:, 10:58, 10:58] = draw_face(1, size=48).image
        write_image(folder / name, photo)
    write_image(folder / "crop.png", draw_face(2, size=64).image)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    told.faces[(120, 90)] = [upright_face(10, 10, 48), upright_face(80, -20, 60, score=0.7)]
    told.faces[(90, 80)] = [upright_face(10, 10, 48)]
    return folder


@pytest.fixture
def runs(tmp_path: Path, encoder: Path) -> list[str]:
    planted = [
        plant(tmp_path / "feel", EXPRESSION, "rafdb", encoder, says=torch.tensor([0.0, 0.0, 8.0]).log_softmax(0)),
        plant(tmp_path / "looks", ATTRIBUTES, "celeba", encoder, says=torch.tensor([1.0, -1.0, 3.0])),
        plant(tmp_path / "where", Landmarks(68), "300w", encoder, says=torch.rand(68, 2) - 0.5),
    ]
    return [word for run in planted for word in ("--task", str(run))]


def test_the_command_writes_predictions_and_pictures(
    photos: Path, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    assert cli.main(["predict", str(photos), *runs, "--detector", "told", "--device", "cpu", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.strip().splitlines() == [f"fra: cannot read the image {photos / 'broken.jpg'}: not an image"]
    for expected in ("calm 100 %", "Smiling, Wearing Hat", "68 points", "no face", "3 faces in 5 photos"):
        assert expected in said.out
    assert "crop.png looks like a face crop: for face crops add --detector none" in said.out

    found = json.loads((out / "predictions.json").read_text())
    assert found["detector"] == "told"
    assert {name: (about["task"], about["dataset"]) for name, about in found["tasks"].items()} == {
        "feel": ("expression", "rafdb"),
        "looks": ("attributes", "celeba"),
        "where": ("landmarks", "300w"),
    }
    by_name = {photo["photo"]: photo for photo in found["photos"]}
    assert list(by_name) == ["a.jpg", "broken.jpg", "crop.png", "sub/a.png", "sub/empty.jpg"]
    assert by_name["broken.jpg"] == {"photo": "broken.jpg", "unreadable": "not an image", "faces": []}
    assert by_name["crop.png"] == {"photo": "crop.png", "width": 64, "height": 64, "faces": []}
    first = by_name["a.jpg"]
    assert (first["width"], first["height"], first["picture"]) == (120, 90, "pictures/a.jpg")
    assert [face["score"] for face in first["faces"]] == [0.9, 0.7]
    face = first["faces"][1]
    assert face["box"] == [85.5, -14.5, 133.5, 33.5]  # 1.25 times it is the square from (80, -20) to (140, 40)
    assert face["five_points"][2] == [109.5, 9.5]
    assert face["answers"]["feel"]["expression"] == "calm"
    assert face["answers"]["looks"]["attributes"] == ["Wearing_Hat", "Smiling"]
    assert [len(point) for point in face["answers"]["where"]["landmarks"]] == [2] * 68
    assert sorted(str(path.relative_to(out)) for path in (out / "pictures").rglob("*.jpg")) == [
        "pictures/a.jpg",
        "pictures/sub/a.jpg",
    ]
    assert read_image(out / "pictures/a.jpg").shape[2] > 600


def test_lists_patterns_and_single_photos_are_the_same_photos(
    photos: Path, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "list.txt").write_text("a.jpg\nsub/a.png\n")
    monkeypatch.chdir(photos)
    answers = []
    for number, given in enumerate((["list.txt"], ["a.jpg", "sub/a.png"], ["a.jpg", "sub/*.png", "sub/a.png"])):
        out = tmp_path / f"out{number}"
        options = [*runs, "--detector", "told", "--device", "cpu", "--quiet", "--out", str(out)]
        assert cli.main(["predict", *given, *options]) == 0
        answers.append(json.loads((out / "predictions.json").read_text()))
        assert answers[-1].pop("not_photos")["repeated"] == (number == 2)
    assert [photo["photo"] for photo in answers[0]["photos"]] == ["a.jpg", "sub/a.png"]
    assert answers[0] == answers[1] == answers[2]


def test_what_is_no_photo_is_said_and_the_others_go_on(photos: Path) -> None:
    empty = photos / "nothing"
    empty.mkdir()
    (photos / "notes.csv").write_text("x")
    sources, complaints = usable([photos / "gone.jpg", photos / "a.jpg", empty, photos / "notes.csv", f"{photos}/b*"])
    assert sources == [photos / "a.jpg", photos / "broken.jpg"]
    assert [complaint.split(str(photos))[0] for complaint in complaints] == [
        "no such file or folder: ",
        "no images below ",
        "",
    ]
    assert "neither an image" in complaints[2]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert cli.main(["predict", *map(str, arguments)]) == 2
    return capsys.readouterr().err.strip().splitlines()


def test_nothing_to_do_is_exit_status_2(
    photos: Path, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fails(capsys, photos / "gone.jpg", *runs)
    assert len(lines) == 1
    assert "no such file or folder" in lines[0]
    lines = fails(capsys, photos / "gone.jpg", photos / "lost.jpg", *runs)
    assert len(lines) == 3
    assert "no photos: give photos" in lines[2]
    lines = fails(capsys, photos / "broken.jpg", *runs, "--detector", "told", "--out", tmp_path / "out")
    assert lines == [f"fra: cannot read the image {photos / 'broken.jpg'}: not an image"]
    assert not (tmp_path / "out").exists()  # free for the right photo
    assert "finished run folder" in fails(capsys, photos, "--task", photos)[0]
    assert "choose one of retinaface" in fails(capsys, photos, *runs, "--detector", "mine")[0]
    assert "min-score is 2" in fails(capsys, photos, *runs, "--min-score", 2)[0]
    assert "is inside the photo folder" in fails(capsys, photos, *runs, "--out", photos / "out")[0]
    assert not (photos / "out").exists()


def test_a_finished_folder_is_only_written_again_with_resume(
    photos: Path, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [photos / "a.jpg", *runs, "--detector", "told", "--device", "cpu", "--quiet", "--out", tmp_path / "out"]
    assert cli.main(["predict", *map(str, options)]) == 0
    before = (tmp_path / "out/predictions.json").read_bytes()
    assert "--resume" in fails(capsys, *options)[0]
    assert cli.main(["predict", *map(str, options), "--resume"]) == 0
    assert (tmp_path / "out/predictions.json").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_stopped(
    photos: Path, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["predict", str(photos), *runs, "--detector", "told", "--device", "cpu"]
    assert cli.main([*options, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(predict, "PHOTOS_AT_ONCE", 1)
    look, looked = Predictor.__call__, 0

    def interrupted(self: Predictor, some: Sequence[Tensor]) -> list[list[Seen]]:
        nonlocal looked
        looked += len(some)
        if looked == 3:
            raise KeyboardInterrupt
        return look(self, some)

    monkeypatch.setattr(Predictor, "__call__", interrupted)
    out = tmp_path / "out"
    assert cli.main([*options, "--out", str(out)]) == 130  # after a.jpg, broken.jpg and crop.png
    with open(out / predict.JOURNAL, "a") as journal:
        journal.write('{"photo": "sub/a')  # what kill -9 leaves
    capsys.readouterr()
    assert cli.main([*options, "--out", str(out), "--resume"]) == 0
    assert looked == 5  # sub/a.png again, and sub/empty.jpg
    said = capsys.readouterr()
    assert said.err.strip() == f"fra: cannot read the image {photos / 'broken.jpg'}: not an image"
    for expected in ("a.jpg", "3 faces in 5 photos", "3 already answered", "crop.png looks like a face crop"):
        assert expected in said.out
    for name in ("predictions.json", "pictures/a.jpg", "pictures/sub/a.jpg"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_is_only_gone_on_with_for_the_same_question(
    photos: Path, runs: list[str], encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--device", "cpu", "--quiet", "--out", str(tmp_path / "out"), "--resume"]
    told = ["--detector", "told"]
    assert cli.main(["predict", str(photos), *runs, *told, *out]) == 0
    before = (tmp_path / "out/predictions.json").read_bytes()
    capsys.readouterr()
    assert "started with other photos:" in fails(capsys, photos / "a.jpg", *runs, *told, *out)[0]
    assert "started with other detector and tasks:" in fails(capsys, photos, *runs, "--detector", "none", *out)[0]
    assert "started with other min-score:" in fails(capsys, photos, *runs, *told, "--min-score", 0.7, *out)[0]
    assert "started with other tasks:" in fails(capsys, photos, *runs[:2], *told, *out)[0]
    plant(tmp_path / "again/feel", EXPRESSION, "rafdb", encoder)  # of the same name, and learned something else
    again = ["--task", tmp_path / "again/feel", *runs[2:]]
    assert "started with other tasks:" in fails(capsys, photos, *again, *told, *out)[0]
    assert (tmp_path / "out/predictions.json").read_bytes() == before


def test_a_crop_is_told_from_a_photo() -> None:
    assert all(sized_like_a_crop(*size) for size in ((48, 48), (178, 218), (256, 256)))
    assert not any(sized_like_a_crop(*size) for size in ((800, 800), (320, 200), (1, 300)))


def test_photos_from_several_places_are_named_from_where_they_meet(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "two/a.jpg", "two/b.jpg"):
        write_image(tmp_path / name, grey(4, 4))
    found = PhotoList(tmp_path / "one", tmp_path / "two", tmp_path / "two/b.jpg")
    assert [photo.name for chunk in found.chunks(0, 9) for photo in chunk] == ["one/a.jpg", "two/a.jpg", "two/b.jpg"]


# --- pictures


def test_marks_are_drawn_where_they_belong() -> None:
    photo = grey(700, 500)
    drawn = annotate(photo, [Mark(torch.tensor([100.0, 100, 300, 350]), points=torch.tensor([[200.0, 220.0]]))])
    assert drawn.shape == photo.shape  # no words, no list
    changed = (drawn != photo).any(0)
    assert changed[220, 200]
    assert changed[200, 100]
    assert changed[200, 299]
    assert not changed[150:200, 150:250].any()  # within the box
    assert not changed[400:].any()


def test_small_photos_are_enlarged_and_faces_at_the_edge_keep_four_sides() -> None:
    marks = [Mark(torch.tensor([-20.0, -30, 40, 60]), "glad 90 %", ("Smiling",), torch.tensor([[-9.0, 9.0], [20, 9]]))]
    drawn = annotate(grey(150, 120), marks)
    assert drawn.shape[1] >= 480
    assert drawn.shape[2] > 600
    left_side = drawn[:, 100:140, 0]
    assert (left_side != 128).any(0).all()


def test_words_of_neighbours_do_not_cover_each_other() -> None:
    """Ten faces in a row: each number can be read, so its colour is at its box."""
    marks = [Mark(torch.tensor([5.0 + 75 * n, 200, 65 + 75 * n, 270]), "happiness 100 %") for n in range(10)]
    drawn = annotate(grey(800, 500), marks)[:, :, :800]
    outside = drawn.clone()
    outside[:, 200:271] = 128
    rows = (outside != 128).any(0).any(1).nonzero().flatten()
    assert len(rows) > 0
    within = torch.cat([drawn[:, 205:265, 10 + 75 * n : 60 + 75 * n] for n in range(10)], -1)
    assert (within == 128).all()  # no face is covered


def test_no_marks_leave_the_photo_alone() -> None:
    assert_close(annotate(grey(640, 400), []), grey(640, 400))


# --- real photos


@pytest.fixture(scope="module")
def photo_boxes(real_faces: Path) -> dict[str, Tensor]:
    """The annotated faces of a few photos: the boxes of their landmarks."""
    boxes: dict[str, list[list[float]]] = {}
    with open(real_faces / "photos/boxes.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            boxes.setdefault(row["file"], []).append([float(row[name]) for name in ("x1", "y1", "x2", "y2")])
    chosen = [name for name in sorted(boxes) if len(boxes[name]) > 3] + [n for n in sorted(boxes) if "helen_2" in n][:8]
    return {name: torch.tensor(boxes[name]) for name in chosen}


def test_real_faces_are_framed_like_their_datasets(
    real_faces: Path, photo_boxes: dict[str, Tensor], encoder: Path, tmp_path: Path
) -> None:
    """A task that always answers 300-W's mean face must draw it over real faces, which it has not looked at."""
    faces = w300.read(real_faces / "300w")
    mean = faces.targets["landmarks"][faces.splits["train"]].mean(0)
    places = torch.tensor(RAFDB.five_points) * 2 - 1
    runs = [plant(tmp_path / "mean", Landmarks(68), "300w", encoder, says=mean)]
    runs.append(plant(tmp_path / "five", Landmarks(68), "rafdb", encoder, says=shape(places.tolist())))
    predictor = Predictor(runs, device="cpu")
    names = [*photo_boxes, "no_face_1.jpg"]
    found = predictor([read_image(real_faces / "photos" / name) for name in names])
    assert found[-1] == []
    overlaps, apart_shares = [], []
    for seen, boxes in zip(found, photo_boxes.values(), strict=False):
        points = torch.tensor([one.answers["mean"]["landmarks"] for one in seen])
        overlaps.append(box_iou(boxes, torch.cat((points.amin(1), points.amax(1)), 1)).amax(1))
        for one in seen:
            assert one.face.five_points is not None
            apart = torch.tensor(one.answers["five"]["landmarks"])[:5] - one.face.five_points
            side = float((one.face.box[2:] - one.face.box[:2]).max())
            apart_shares.append(float(apart.norm(dim=1).mean()) / side)
    every = torch.cat(overlaps)
    assert len(every) >= 35
    # measured: 0.85, 0.71; 0.029 and, for a profile, 0.13
    assert float(every.median()) > 0.8
    assert float(every.quantile(0.1)) > 0.65
    assert float(torch.tensor(apart_shares).median()) < 0.04
    assert max(apart_shares) < 0.2


@pytest.mark.parametrize(
    "dataset, pictures, least",
    [("rafdb", "rafdb/basic/Image/aligned/train_*.jpg", 0.03), ("celeba", "celeba/img_align_celeba/*.jpg", 0.015)],
)
def test_real_datasets_hold_their_faces_where_the_framing_says(
    real_faces: Path, dataset: str, pictures: str, least: float
) -> None:
    framing = framing_of(dataset)
    assert isinstance(framing, Aligned)
    detector = detectors.make_detector("retinaface", min_score=0.6)
    places = []
    for file in sorted(real_faces.glob(pictures))[:1200:40]:
        picture = read_image(file)
        assert dataset != "celeba" or framing.aspect == picture.shape[2] / picture.shape[1]
        for face in detector.find_faces(picture)[:1]:
            assert face.five_points is not None
            places.append((face.five_points + 0.5) / torch.tensor([picture.shape[2], picture.shape[1]]))
    assert len(places) >= 25
    assert_close(torch.stack(places).median(0).values, torch.tensor(framing.five_points), atol=least, rtol=0)


def test_real_crops_are_answered_without_a_detector(real_faces: Path, encoder: Path, tmp_path: Path) -> None:
    run = plant(tmp_path / "run", EXPRESSION, "rafdb", encoder)
    files = sorted((real_faces / "rafdb/basic/Image/aligned").glob("test_*.jpg"))[:3]
    crops = [read_image(file) for file in files]
    found = Predictor([run], detector="none", device="cpu")(crops)
    assert [len(seen) for seen in found] == [1, 1, 1]
    assert_close(found[0][0].face.box, whole_box(100, 100))
    for [seen], answer in zip(found, load_task_model(run).predict(crops), strict=True):
        assert seen.answers["run"]["probabilities"]["glad"] == pytest.approx(answer["probabilities"]["glad"], abs=1e-5)
    model = load_task_model(run)
    assert isinstance(model, TaskModel)
    assert model.predict(Image.open(files[0])) == model.predict(crops[0])


@pytest.mark.slow
def test_a_cluster_gives_the_same_answers(photos: Path, runs: list[str], tmp_path: Path) -> None:
    words = ["predict", str(photos), *runs, "--detector", "none", "--device", "cpu", "--quiet"]
    for name, more in (("alone", []), ("cluster", ["--cluster", "local"])):
        command = [sys.executable, "-m", "fra.cli", *words, "--out", str(tmp_path / name), *more]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    made = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.j*")]
    assert len(made) > 3
    for name in made:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "cluster" / name).read_bytes()
