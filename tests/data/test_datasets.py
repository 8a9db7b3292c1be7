"""The drawn faces are written in five layouts and read back; real downloads have the counts that are known."""

import csv
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fra.data.check import check
from fra.data.datasets import DATASETS, celeba, fairface, rafdb, synthetic, w300, wflw
from fra.data.labelled import Dataset, LabelledFaces
from fra.drawing.drawn_face import ATTRIBUTES, EXPRESSIONS, draw_face
from fra.faces.points import place_out_of
from fra.pools.listing import image_files
from fra.runtime import Runtime

COUNT, SIZE = 20, 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "drawn"
    synthetic.write(folder, COUNT, size=SIZE)
    return folder


def numbers(faces: LabelledFaces, drawn: Path) -> list[int]:
    """Which drawn face each file is: the layouts share the same bytes."""
    known = {sha256(path.read_bytes()).digest(): int(path.stem) for path in (drawn / "images").iterdir()}
    return [known[sha256((faces.root / file).read_bytes()).digest()] for file in faces.files]


def test_the_layout_of_our_own_gives_back_every_label(drawn: Path) -> None:
    faces = synthetic.read(drawn)
    assert numbers(faces, drawn) == list(range(COUNT))
    truth = [draw_face(number, size=SIZE) for number in range(COUNT)]
    assert faces.targets["expression"].tolist() == [face.expression for face in truth]
    assert faces.targets["attributes"].tolist() == [face.attributes.tolist() for face in truth]
    # The centre of pixel x lies (x + 0.5) / 64 of the way from -1 to 1.
    assert_close(faces.targets["landmarks"], torch.stack([(f.points68 + 0.5) / 32 - 1 for f in truth]))
    assert_close(faces.targets["landmarks98"], torch.stack([(f.points98 + 0.5) / 32 - 1 for f in truth]))
    regions = np.asarray(Image.open(drawn / "regions/000003.png"))
    assert (regions == truth[3].regions.numpy()).all()


def test_of_ten_faces_seven_train_one_validates_and_two_test(drawn: Path) -> None:
    splits = synthetic.read(drawn).splits
    assert splits["train"].tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16]
    assert splits["val"].tolist() == [7, 17]
    assert splits["test"].tolist() == [8, 9, 18, 19]


def test_the_pictures_can_be_pretrained_on(drawn: Path) -> None:
    assert len(image_files(drawn / "images")) == COUNT


@pytest.mark.parametrize("below", ["rafdb", "rafdb/basic"])
def test_the_rafdb_layout_gives_back_the_expressions(drawn: Path, below: str) -> None:
    faces = rafdb.read(drawn / below)
    ours = synthetic.read(drawn)
    assert [label.replace(" ", "") for label in rafdb.LABELS] == list(EXPRESSIONS)
    assert_close(faces.targets["expression"], ours.targets["expression"][numbers(faces, drawn)])
    test = [number for number, file in zip(numbers(faces, drawn), faces.files, strict=True) if file.startswith("test_")]
    assert test == ours.splits["test"].tolist() == [numbers(faces, drawn)[i] for i in faces.splits["test"]]
    assert len(faces.splits["train"]) == 16
    assert len(faces.splits["val"]) == 0


def test_the_celeba_layout_gives_back_the_attributes_and_minus_one_for_what_is_not_drawn(drawn: Path) -> None:
    faces, ours = celeba.read(drawn / "celeba"), synthetic.read(drawn)
    names = faces.tasks["attributes"].names
    assert len(names) == 40
    assert set(ATTRIBUTES) < set(names)
    assert numbers(faces, drawn) == list(range(COUNT))
    columns = [names.index(name) for name in ATTRIBUTES]
    assert (faces.targets["attributes"][:, columns] == ours.targets["attributes"]).all()
    assert faces.targets["attributes"].sum() == ours.targets["attributes"].sum()
    assert all((faces.splits[split] == ours.splits[split]).all() for split in ("train", "val", "test"))


def test_the_300w_layout_gives_back_the_landmarks_and_counts_from_one(drawn: Path) -> None:
    faces = w300.read(drawn / "300w")
    truth = torch.stack([draw_face(number, size=SIZE).points68 for number in numbers(faces, drawn)])
    assert faces.boxes is not None
    low, side = faces.boxes[:, None, :2], (faces.boxes[:, 2:] - faces.boxes[:, :2])[:, None]
    assert_close(low + (faces.targets["landmarks"] + 1) / 2 * side, truth, atol=1e-4, rtol=0)
    first_line = (drawn / "300w/helen/trainset/000000.pts").read_text().splitlines()[3]
    assert_close(torch.tensor([float(v) for v in first_line.split()]), draw_face(0, size=SIZE).points68[0] + 1)
    assert len(faces.splits["train"]) == 16
    assert len(faces.splits["test"]) == 4


def test_the_wflw_layout_gives_back_the_landmarks_and_counts_from_zero(drawn: Path) -> None:
    faces = wflw.read(drawn / "wflw", crop="rect")
    truth = [draw_face(number, size=SIZE) for number in numbers(faces, drawn)]
    points = torch.stack([face.points98 for face in truth])
    assert faces.boxes is not None
    assert_close(place_out_of(faces.boxes, faces.targets["landmarks"]), points, atol=1e-4, rtol=0)
    # The rectangle is the landmarks' box in whole pixels, the image a square about it: nothing is outside.
    assert faces.targets["landmarks"].abs().max() <= 1
    table = drawn / "wflw/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
    first = table.read_text().splitlines()[0].split()
    assert len(first) == 207
    assert_close(torch.tensor([float(v) for v in first[:2]]), draw_face(0, size=SIZE).points98[0])
    blurry = [bool(face.attributes[ATTRIBUTES.index("Blurry")]) for face in truth]
    assert [bool(flag) for flag in faces.groups["blur"].of] == blurry
    assert [len(faces.splits[split]) for split in ("train", "test")] == [16, 4]


def test_a_300w_crop_shows_a_landmark_where_its_target_says(tmp_path: Path) -> None:
    # A white pixel in a black photo of 90 x 70, under landmark 0; the others span a box of 20 x 20.
    points = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 20 + torch.tensor([40.0, 20.0])
    points[0] = torch.tensor([52.0, 27.0])
    photo = np.zeros((70, 90), np.uint8)
    photo[27, 52] = 255
    for folder in ("helen/trainset", "helen/testset"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(photo).save(tmp_path / folder / "a.png")
        lines = [f"{x} {y}" for x, y in (points + 1).tolist()]
        (tmp_path / folder / "a.pts").write_text("\n".join(["version: 1", "n_points: 68", "{", *lines, "}"]))
    faces = w300.read(tmp_path)
    crop = faces.image(0, size=160)[0].float()
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    centre = torch.stack([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    assert_close((centre + 0.5) / 80 - 1, faces.targets["landmarks"][0, 0], atol=0.004, rtol=0)


def test_a_picture_that_is_not_square_is_squeezed(drawn: Path, tmp_path: Path) -> None:
    Image.new("RGB", (178, 218), (10, 20, 30)).save(tmp_path / "a.png")
    faces = LabelledFaces("x", tmp_path, ["a.png"], {}, {}, {})
    assert faces.image(0, size=32).shape == (3, 32, 32)
    assert faces.image(0, size=32)[:, 5, 5].tolist() == [10, 20, 30]


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if not dataset.own])
def test_a_wrong_folder_is_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"does not hold {name}: expected {tmp_path}"):
        DATASETS[name](tmp_path)


@pytest.mark.parametrize("line", ["train_00001.jpg 8", "train_00001.jpg", "valid_1.jpg 3", "train_00001.jpg 0"])
def test_a_damaged_rafdb_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel/list_patition_label.txt").write_text(f"train_00000.jpg 1\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2 .*'{line}'"):
        rafdb.read(tmp_path)


def test_celeba_lists_that_disagree_are_named(drawn: Path, tmp_path: Path) -> None:
    attributes = (drawn / "celeba/list_attr_celeba.txt").read_text()
    (tmp_path / "list_attr_celeba.txt").write_text(attributes)
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt is missing"):
        celeba.read(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(ValueError, match=r"does not list 000002\.jpg"):
        celeba.read(tmp_path)


def put_fairface(folder: Path, *lists: tuple[str, str, tuple[str, ...]]) -> None:
    """Lists of (name, heading, rows)."""
    for name, heading, rows in lists:
        (folder / name).write_text("\n".join([heading, *rows, ""]), encoding="utf-8-sig")  # as Excel writes it


OFFICIAL = (
    ("fairface_label_train.csv", "file,age,gender,race,service_test",
     ("train/1.jpg,50-59,Male,East Asian,True", "train/2.jpg,more than 70,Female,White,False")),
    ("fairface_label_val.csv", "file,age,gender,race,service_test", ("val/1.jpg,3-9,Male,Latino_Hispanic,True",)),
)  # fmt: skip


def test_the_official_fairface_validation_images_are_the_test_split(tmp_path: Path) -> None:
    put_fairface(tmp_path, *OFFICIAL[:1])
    with pytest.raises(ValueError, match=r"fairface_label_val\.csv is missing"):
        fairface.read(tmp_path)
    put_fairface(tmp_path, *OFFICIAL)
    faces = fairface.read(tmp_path)
    assert faces.files == ["train/1.jpg", "train/2.jpg", "val/1.jpg"]
    assert [faces.splits[split].tolist() for split in ("train", "val", "test")] == [[0, 1], [], [2]]
    assert faces.targets["age"].tolist() == [6, 8, 1]
    assert faces.groups["race"].of.tolist() == [3, 0, 6]


def test_a_fairface_list_without_a_column_or_with_a_short_row_is_named(tmp_path: Path) -> None:
    put_fairface(tmp_path, ("labels.csv", "path,age,gender", ("00/1.jpg,3-9,Male",)))
    with pytest.raises(ValueError, match=r"labels\.csv has no column race: expected path,age,gender,race"):
        fairface.read(tmp_path)
    put_fairface(tmp_path, ("labels.csv", "path,age,gender,race", ("00/1.jpg,3-9,Male",)))
    with pytest.raises(ValueError, match=r"labels\.csv: 00/1\.jpg has race '', expected one of White"):
        fairface.read(tmp_path)
    rows = tuple(f"0{folder}/1.jpg,3-9,Male,White" for folder in range(3))
    put_fairface(tmp_path, ("labels.csv", "path,age,gender,race", rows))
    assert fairface.read(tmp_path).files == ["00/1.jpg", "01/1.jpg", "02/1.jpg"]


def test_lists_that_excel_has_saved_are_read(drawn: Path, tmp_path: Path) -> None:
    lists = ["rafdb/basic/EmoLabel/list_patition_label.txt", "celeba/list_attr_celeba.txt",
             "celeba/list_eval_partition.txt", f"wflw/{wflw.TABLES.format('train')}",
             f"wflw/{wflw.TABLES.format('test')}"]  # fmt: skip
    for name in lists:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((drawn / name).read_text(), encoding="utf-8-sig")
    for dataset in (rafdb, celeba, wflw):
        name = dataset.__name__.rpartition(".")[2]
        assert dataset.read(tmp_path / name).files == dataset.read(drawn / name).files


@pytest.mark.parametrize(
    "error, what, fix",
    [
        (FileNotFoundError(2, "No such file", "a.npz"), "a.npz: No such file", "complete the download"),
        (IndexError("list index out of range"), "parsed (IndexError: list index", "use the original file"),
        (KeyError("path"), "parsed (KeyError: 'path')", "use the original file"),
        (csv.Error("field too large"), "parsed (Error: field too large)", "use the original file"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "no"), "parsed (UnicodeDecodeError: ", "use the original"),
        (ValueError("line 2 of a.txt is 'x'"), "line 2 of a.txt is 'x'", "use the original file"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_a_verdict(
    error: Exception, what: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path) -> LabelledFaces:
        raise error

    monkeypatch.setitem(DATASETS, "broken", Dataset(read, layout=""))
    faces, [fault] = check("broken", tmp_path, runtime=Runtime(quiet=True))
    assert faces is None
    assert what in fault.what
    assert fault.fix.startswith(fix)


def test_more_faces_only_add_and_processes_change_nothing(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "CHUNK", 3)  # 24 faces are then 8 chunks: enough work for two processes
    synthetic.write(tmp_path / "more", 24, size=SIZE, runtime=Runtime(workers=2))
    for path in sorted(drawn.glob("images/*")) + sorted(drawn.glob("regions/*")):
        assert path.read_bytes() == (tmp_path / "more" / path.relative_to(drawn)).read_bytes()
    assert (tmp_path / "more/labels.csv").read_text().startswith((drawn / "labels.csv").read_text())


def test_another_seed_draws_other_faces(drawn: Path, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "other", 10, size=SIZE, seed=1)
    assert (tmp_path / "other/images/000000.jpg").read_bytes() != (drawn / "images/000000.jpg").read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        synthetic.write(tmp_path, 10, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "_write_300w", broken)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write(tmp_path / "drawn", 10, size=SIZE)
    assert list(tmp_path.iterdir()) == []


# Real faces


def test_the_real_rafdb_has_its_known_counts(real_faces: Path) -> None:
    faces = rafdb.read(real_faces / "rafdb")
    train, test = faces.splits["train"], faces.splits["test"]
    assert len(train) == 12_271
    assert len(test) in (1_534, 3_068)
    assert torch.bincount(faces.targets["expression"][train]).tolist() == [1290, 281, 717, 4772, 1982, 705, 2524]
    assert all(faces.image(int(index), size=100).shape == (3, 100, 100) for index in (train[0], test[-1]))


def test_the_real_celeba_selection_has_its_known_counts(real_faces: Path) -> None:
    faces = celeba.read(real_faces / "celeba")
    assert [len(faces.splits[split]) for split in ("train", "val", "test")] == [5000, 800, 1200]
    assert faces.tasks["attributes"].names[20] == "Male"
    # The majority of each attribute is right for about 80 % of the cells of the whole of CelebA.
    baseline = faces.tasks["attributes"].baseline(
        faces.targets["attributes"][faces.splits["train"]], faces.targets["attributes"][faces.splits["test"]]
    )
    assert baseline.metrics["attribute_accuracy"] == pytest.approx(80, abs=1.5)
    assert faces.image(0, size=64).shape == (3, 64, 64)


def test_the_real_300w_selection_has_its_known_counts(real_faces: Path) -> None:
    faces = w300.read(real_faces / "300w")
    assert [len(faces.splits[split]) for split in ("train", "val", "test")] == [1207, 0, 165]
    # The landmarks' box is the middle half of the image, in its longer direction.
    extent = (faces.targets["landmarks"].amax(1) - faces.targets["landmarks"].amin(1)).amax(1)
    assert_close(extent, torch.ones(1372), atol=1e-4, rtol=0)
    assert faces.image(0, size=64).shape == (3, 64, 64)
