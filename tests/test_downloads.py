"""Datasets as they are downloaded: small ones in each official layout are read, checked, and judged when damaged."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import landmark_miniatures
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fra import cli
from fra.data import check as checking
from fra.data.check import Fault, Survey, check
from fra.data.datasets import DATASETS, affectnet, celeba, ferplus, lfwa
from fra.data.labelled import LabelledFaces, Published
from fra.faces.image import UnreadableImage
from fra.runtime import Runtime
from fra.tasks.expression import Expression

NAMES = tuple(name for name, dataset in DATASETS.items() if name not in ("synthetic", "fairface") and not dataset.own)


def pixels(seed: int, *, width: int = 48, height: int = 48, grey: bool = True) -> np.ndarray:
    """A picture unlike that of any other seed: 6 x 6 patches of random brightness."""
    draw = np.random.default_rng(seed)
    shape = (6, 6) if grey else (6, 6, 3)
    patches = Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
    return np.array(patches.resize((width, height), Image.Resampling.BICUBIC))


def put_picture(path: Path, seed: int, **size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, grey=False, **size)).save(path, quality=95)


def put_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


# FERPlus

# Usage, file name, ten votes: neutral happiness surprise sadness anger disgust fear contempt unknown NF
VOTES = [
    ("Training", "fer0000000.png", (6, 4, 0, 0, 0, 0, 0, 0, 0, 0)),  # 6 of 10: neutral
    ("Training", "fer0000001.png", (4, 4, 2, 0, 0, 0, 0, 0, 0, 0)),  # 4 of 10 is no majority
    ("Training", "", (0, 9, 0, 0, 0, 0, 0, 0, 0, 1)),  # no name
    ("Training", "fer0000003.png", (5, 4, 1, 0, 0, 0, 0, 0, 0, 0)),  # the single vote does not count: 5 of 9
    ("Training", "fer0000004.png", (0, 0, 0, 0, 0, 0, 0, 8, 1, 1)),  # contempt
    ("PublicTest", "fer0000005.png", (1, 0, 9, 0, 0, 0, 0, 0, 0, 0)),  # surprise
    ("PublicTest", "fer0000006.png", (1, 0, 0, 0, 0, 0, 0, 0, 9, 0)),  # unknown is no class
    ("PrivateTest", "fer0000007.png", (0, 0, 0, 0, 7, 0, 3, 0, 0, 0)),  # anger
    ("PrivateTest", "fer0000008.png", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)),  # no face
    ("PrivateTest", "fer0000009.png", (1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),  # nothing is left to count
]
KEPT = [0, 3, 4, 5, 7]
CLASSES = ["neutral", "neutral", "contempt", "surprise", "anger"]


def put_ferplus_tables(root: Path, *, below: str = "") -> Path:
    heading = f"Usage,Image name,{','.join(ferplus.VOTES)}"
    put_lines(
        root / "fer2013new.csv", heading, *(f"{usage},{name},{','.join(map(str, v))}" for usage, name, v in VOTES)
    )
    rows = [f"3,{' '.join(map(str, pixels(seed).ravel()))},{usage}" for seed, (usage, _, _) in enumerate(VOTES)]
    put_lines(root / below / "fer2013.csv", "emotion,pixels,Usage", *rows)
    return root


def put_ferplus_pictures(root: Path, *, apart: bool = False) -> Path:
    for usage, split in ferplus.USAGES.items():
        folder = ferplus.FOLDERS[split]
        lists = root / "Labels" / folder if apart else root / folder
        pictures = root / "Images" / folder if apart else root / folder
        pictures.mkdir(parents=True)
        lines = []
        for seed, (said, name, votes) in enumerate(VOTES):
            if said == usage and name:
                Image.fromarray(pixels(seed)).save(pictures / name)
                lines.append(f'{name},"(0, 0, 48, 48)",{",".join(map(str, votes))}')
        put_lines(lists / "label.csv", *lines)
    return root


FERPLUS: dict[str, Callable[[Path], Path]] = {
    "tables": put_ferplus_tables,
    "pixels below": lambda root: put_ferplus_tables(root, below="fer2013"),
    "pictures": put_ferplus_pictures,
    "pictures apart": lambda root: put_ferplus_pictures(root, apart=True),
    "a folder above": lambda root: put_ferplus_tables(root / "ferplus").parent,
}


@pytest.mark.parametrize("layout", FERPLUS)
def test_ferplus_keeps_what_most_voters_agree_on(layout: str, tmp_path: Path) -> None:
    faces = ferplus.read(FERPLUS[layout](tmp_path))
    assert [ferplus.LABELS[label] for label in faces.targets["expression"]] == CLASSES
    assert {split: images.tolist() for split, images in faces.splits.items()} == {
        "train": [0, 1, 2],
        "val": [3],
        "test": [4],
    }
    for place, seed in enumerate(KEPT):
        picture = faces.picture(place)
        assert picture.shape == (3, 48, 48)
        assert (picture.numpy() == pixels(seed)).all()
    assert faces.image(0, size=32).shape == (3, 32, 32)
    assert faces.missing() == []


def test_both_layouts_of_ferplus_are_the_same_dataset(tmp_path: Path) -> None:
    tables, pictures = put_ferplus_tables(tmp_path / "a"), put_ferplus_pictures(tmp_path / "b")
    assert ferplus.read(tables).fingerprint("expression") == ferplus.read(pictures).fingerprint("expression")


def test_a_row_of_pixels_that_is_cut_is_an_unreadable_image(tmp_path: Path) -> None:
    table = put_ferplus_tables(tmp_path) / "fer2013.csv"
    rows = table.read_text().splitlines()
    rows[4] = "3,1 2 300,Training"
    put_lines(table, *rows)
    faces = ferplus.read(tmp_path)
    with pytest.raises(UnreadableImage, match="line 5 does not have 2304 grey values"):
        faces.image(1, size=32)
    assert (faces.picture(2).numpy() == pixels(4)).all()


@pytest.mark.parametrize(
    "table, before, after, message",
    [
        ("fer2013new.csv", "Training,fer0000001.png,4", "Training,fer0000001.png,four", r"line 3 of .*ten counts"),
        ("fer2013new.csv", "PublicTest,fer0000005", "Test,fer0000005", r"line 7 of .*Training or PublicTest"),
        ("fer2013new.csv", "Usage,Image", "Image,Usage", r"fer2013new\.csv begins with 'Image,Usage"),
        ("fer2013.csv", "emotion,pixels", "emotion,values", r"expected emotion,pixels,Usage"),
    ],
)
def test_a_damaged_table_of_ferplus_is_named(table: str, before: str, after: str, message: str, tmp_path: Path) -> None:
    text = (put_ferplus_tables(tmp_path) / table).read_text()
    assert before in text
    (tmp_path / table).write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        ferplus.read(tmp_path)


def test_tables_of_ferplus_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    table = put_ferplus_tables(tmp_path) / "fer2013.csv"
    rows = table.read_text().splitlines()
    put_lines(table, *rows[:7])
    with pytest.raises(ValueError, match="ends after 6 rows, but fer2013new.csv has row 8"):
        ferplus.read(tmp_path)
    put_lines(table, *rows[:1], *rows[:0:-1])
    with pytest.raises(ValueError, match=r"line 2 .* says 'PrivateTest' where fer2013new\.csv says train"):
        ferplus.read(tmp_path)
    table.unlink()
    with pytest.raises(ValueError, match=r"fer2013\.csv is missing"):
        ferplus.read(tmp_path)


# AffectNet

EXPRESSIONS = {"train": [0, 1, 7, 8, 3, 9, 10, 6], "val": [2, 7, 0]}


def put_affectnet_lists(root: Path, *, lists: str = "", pictures: str = "", heading_of_validation: bool = True) -> Path:
    for part, (split, table) in enumerate((("train", "training"), ("val", "validation"))):
        lines = [affectnet.HEADING.replace(" ", ",")] if split == "train" or heading_of_validation else []
        for number, expression in enumerate(EXPRESSIONS[split]):
            file = f"{100 + number}/{split}{number}.jpg"
            put_picture(root / pictures / file, 100 * part + number, width=90, height=70)
            lines.append(f"{file},20,10,40,30,1.0;2.0;3.0;4.0,{expression},0.5,-0.25")
        put_lines(root / lists / f"{table}.csv", *lines)
    return root


def put_affectnet_annotations(root: Path) -> Path:
    for part, split in enumerate(("train", "val")):
        for number, expression in enumerate(EXPRESSIONS[split]):
            put_picture(root / f"{split}_set/images/{number}.jpg", 100 * part + number, width=64, height=64)
            (root / f"{split}_set/annotations").mkdir(exist_ok=True)
            np.save(root / f"{split}_set/annotations/{number}_exp.npy", np.array(str(expression)))
            np.save(root / f"{split}_set/annotations/{number}_val.npy", np.array("0.5"))
    return root


AFFECTNET: dict[str, Callable[[Path], Path]] = {
    "flat": put_affectnet_lists,
    "as unpacked": lambda root: put_affectnet_lists(
        root,
        lists="Manually_Annotated_file_lists",
        pictures="Manually_Annotated/Manually_Annotated_Images",
        heading_of_validation=False,
    ),
    "annotations": put_affectnet_annotations,
}


@pytest.mark.parametrize("layout", AFFECTNET)
@pytest.mark.parametrize("classes, train, test", [(7, [0, 1, 3, 6], [2, 0]), (8, [0, 1, 7, 3, 6], [2, 7, 0])])
def test_affectnet_is_judged_on_its_validation_images(
    layout: str, classes: int, train: list[int], test: list[int], tmp_path: Path
) -> None:
    faces = DATASETS[f"affectnet{classes}"](AFFECTNET[layout](tmp_path))
    assert faces.name == f"affectnet{classes}"
    assert len(faces.tasks["expression"].labels) == classes
    assert faces.targets["expression"][faces.splits["train"]].tolist() == train
    assert faces.targets["expression"][faces.splits["test"]].tolist() == test
    assert len(faces.splits["val"]) == 0
    assert faces.image(len(train), size=32).shape == (3, 32, 32)
    assert ("2" in faces.files[2]) == (classes == 8)  # the third training face shows contempt


def test_an_affectnet_photo_is_cut_about_its_box(tmp_path: Path) -> None:
    faces = affectnet.read(put_affectnet_lists(tmp_path), classes=7)
    # x 20, y 10, 40 wide, 30 high: pixels 20 to 59 and 10 to 39, so from 19.5 to 59.5 and from 9.5 to 39.5. Its centre
    # is (39.5, 24.5); the square reaches 20 pixels from there.
    assert faces.boxes is not None
    assert faces.boxes[0].tolist() == [19.5, 4.5, 59.5, 44.5]
    assert_close(faces.image(0, size=40), faces.picture(0)[:, 5:45, 20:60])


@pytest.mark.parametrize("change", [("0.5,-0.25", "0.5"), (",1,0.5", ",11,0.5"), (",1,0.5", ",x,0.5"), (",40,", ",0,")])
def test_a_damaged_line_of_affectnet_is_named(change: tuple[str, str], tmp_path: Path) -> None:
    path = put_affectnet_lists(tmp_path) / "training.csv"
    lines = path.read_text().splitlines()
    assert change[0] in lines[2]
    lines[2] = lines[2].replace(*change) if change[1] != "0.5" else ",".join(lines[2].split(",")[:5])
    put_lines(path, *lines)
    with pytest.raises(ValueError, match=r"line 3 of .*training\.csv is .*an expression from 0 to 10"):
        affectnet.read(tmp_path, classes=7)


@pytest.mark.parametrize("content", [np.array("11"), np.array("happy"), np.array(-1)])
def test_a_damaged_annotation_of_affectnet_is_named(content: np.ndarray, tmp_path: Path) -> None:
    path = put_affectnet_annotations(tmp_path) / "train_set/annotations/3_exp.npy"
    np.save(path, content)
    with pytest.raises(ValueError, match=r"3_exp\.npy .*an expression from 0 to 10"):
        affectnet.read(tmp_path, classes=8)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3_exp\.npy is not a complete NumPy file"):
        affectnet.read(tmp_path, classes=8)


# CelebA

ATTRIBUTES = ("Bald", "Male", "Smiling")
ANSWERS = [(1, -1, 1), (-1, -1, 1), (1, 1, -1), (-1, 1, -1)]
PARTS = (0, 0, 1, 2)


def put_celeba(root: Path, *, pictures: str, ending: str, anno: str = "", evaluation: str = "") -> Path:
    names = [f"{number:06d}.jpg" for number in range(1, 5)]
    for seed, name in enumerate(names):
        put_picture(root / pictures / name, seed, width=178, height=218)
    between = "," if ending == "csv" else "  "
    heading = [",".join(("image_id", *ATTRIBUTES))] if ending == "csv" else ["4", " ".join(ATTRIBUTES)]
    rows = [between.join((name, *map(str, row))) for name, row in zip(names, ANSWERS, strict=True)]
    put_lines(root / anno / f"list_attr_celeba.{ending}", *heading, *rows)
    parts = [f"{name}{between[0]}{part}" for name, part in zip(names, PARTS, strict=True)]
    heading = ["image_id,partition"] if ending == "csv" else []
    put_lines(root / evaluation / f"list_eval_partition.{ending}", *heading, *parts)
    return root


CELEBA: dict[str, Callable[[Path], Path]] = {
    "flat": lambda root: put_celeba(root, pictures="img_align_celeba", ending="txt"),
    "official": lambda root: put_celeba(
        root, pictures="Img/img_align_celeba", ending="txt", anno="Anno", evaluation="Eval"
    ),
    "kaggle": lambda root: put_celeba(root, pictures="img_align_celeba/img_align_celeba", ending="csv"),
    "kaggle, flat": lambda root: put_celeba(root, pictures="img_align_celeba", ending="csv"),
}


@pytest.mark.parametrize("layout", CELEBA)
def test_every_layout_of_celeba_is_the_same_dataset(layout: str, tmp_path: Path) -> None:
    faces = DATASETS["celeba"](CELEBA[layout](tmp_path))
    assert faces.tasks["attributes"].names == ATTRIBUTES
    assert faces.targets["attributes"].tolist() == [[value == 1 for value in row] for row in ANSWERS]
    assert {split: images.tolist() for split, images in faces.splits.items()} == {
        "train": [0, 1],
        "val": [2],
        "test": [3],
    }
    assert faces.image(3, size=32).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "table, before, after, message",
    [
        ("list_attr_celeba.csv", "000002.jpg,-1", "000002.jpg,2", "000002.jpg has '2' for Bald, expected 1 or -1"),
        ("list_attr_celeba.csv", "000002.jpg,-1", "000002.jpg", "000002.jpg has 2 values for 3 names"),
        ("list_eval_partition.csv", "000003.jpg,1", "000003.jpg,5", "says '000003.jpg 5': expected a file name, and 0"),
    ],
)
def test_a_damaged_table_of_celeba_is_named(table: str, before: str, after: str, message: str, tmp_path: Path) -> None:
    path = CELEBA["kaggle"](tmp_path) / table
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=message):
        celeba.read(tmp_path)


# LFWA

PEOPLE = ("Ada", "Bob", "Cyd")


def put_lfwa(root: Path, *, anno: str = "", pictures: str = "lfw", train: tuple[int, ...] = (3, 1)) -> Path:
    names = [f"{name}\\{name}_0001.jpg" for name in PEOPLE]
    for seed, name in enumerate(names):
        put_picture(root / pictures / name.replace("\\", "/"), seed, width=250, height=250)
    label = np.array([[1, 0], [0, 0], [1, 1]], dtype=float)  # images by attributes, as MATLAB shows it
    table, parts = root / anno / "lfw_att_40.mat", root / anno / "indices_train_test.mat"
    table.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(table, "w") as file:
        file["label"] = label.T
        put_cells(file, "AttrName", ATTRIBUTES[:2])
        put_cells(file, "name", names)
    with h5py.File(parts, "w") as file:
        file["indices_img_train"] = np.array([train], dtype=float)
        file["indices_img_test"] = np.array([[2.0]])
    return root


def put_cells(file: h5py.File, name: str, texts: tuple[str, ...] | list[str]) -> None:
    """A MATLAB cell array in HDF5: references to texts, which are columns of 16-bit numbers."""
    cells = file.create_dataset(name, (1, len(texts)), dtype=h5py.ref_dtype)
    for number, text in enumerate(texts):
        place = file.create_dataset(f"#refs#/{name}{number}", data=np.array([[ord(c)] for c in text], dtype=np.uint16))
        cells[0, number] = place.ref


LFWA: dict[str, Callable[[Path], Path]] = {
    "flat": put_lfwa,
    "in folders": lambda root: put_lfwa(root, anno="anno", pictures="lfw-deepfunneled"),
}


@pytest.mark.parametrize("layout", LFWA)
def test_lfwa_is_transposed_counted_from_one_and_has_back_slashes(layout: str, tmp_path: Path) -> None:
    faces = DATASETS["lfwa"](LFWA[layout](tmp_path))
    assert faces.files == ["Ada/Ada_0001.jpg", "Bob/Bob_0001.jpg", "Cyd/Cyd_0001.jpg"]
    assert faces.tasks["attributes"].names == ("Bald", "Male")
    assert faces.targets["attributes"].tolist() == [[True, False], [False, False], [True, True]]
    assert faces.splits["train"].tolist() == [0, 2]
    assert faces.splits["test"].tolist() == [1]
    assert_close(faces.image(0, size=200), faces.picture(0)[:, 25:225, 25:225])


def test_tables_of_lfwa_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    put_lfwa(tmp_path, train=(0, 3))
    with pytest.raises(ValueError, match="train images from 0 to 3, but there are 3"):
        lfwa.read(tmp_path)
    with h5py.File(tmp_path / "lfw_att_40.mat", "a") as file:
        file["label"][1, 0] = 5
    with pytest.raises(ValueError, match=r"Ada_0001\.jpg has 5 for Male, expected 0 or 1"):
        lfwa.read(tmp_path)
    (tmp_path / "lfw_att_40.mat").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="not a complete MATLAB 7.3 file"):
        lfwa.read(tmp_path)
    (tmp_path / "indices_train_test.mat").unlink()
    with pytest.raises(ValueError, match=r"indices_train_test\.mat is missing"):
        lfwa.read(tmp_path)


# RAF-DB, and all of them


def put_rafdb(root: Path, *, size: int = 100) -> Path:
    """Two faces of each class train and one tests."""
    lines = []
    for split, count in (("train", 14), ("test", 7)):
        for number in range(1, count + 1):
            name = f"{split}_{number:05d}"
            put_picture(
                root / f"Image/aligned/{name}_aligned.jpg", number + 50 * (split == "test"), width=size, height=size
            )
            lines.append(f"{name}.jpg {(number - 1) % 7 + 1}")
    put_lines(root / "EmoLabel/list_patition_label.txt", *lines)
    return root


MINIATURES: dict[str, Callable[[Path], Path]] = {
    "rafdb": put_rafdb,
    "ferplus": put_ferplus_tables,
    "affectnet7": put_affectnet_lists,
    "affectnet8": put_affectnet_annotations,
    "celeba": CELEBA["kaggle"],
    "lfwa": put_lfwa,
    "300w": landmark_miniatures.put_300w_pts,
    "wflw": landmark_miniatures.put_wflw,
    "cofw": landmark_miniatures.put_cofw,
    "aflw": landmark_miniatures.put_aflw_csv,
}


def published_as(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this miniature were all that was ever published, so that nothing is wrong with it."""
    faces = DATASETS[name].read(folder)
    images: dict[str, int | tuple[int, ...]] = {split: len(places) for split, places in faces.splits.items()}
    if name == "rafdb":
        images = {"train": (2,) * 7, "test": (1,) * 7}
    dataset = DATASETS[name]
    alike = type(dataset)(dataset.read, dataset.layout, Published(images, size=dataset.published.size))
    monkeypatch.setitem(DATASETS, name, alike)


def faults_of(name: str, folder: Path) -> list[Fault]:
    return check(name, folder, runtime=Runtime(workers=1, quiet=True))[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_of_each_is_read_and_found_too_small(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = MINIATURES[name](tmp_path)
    assert cli.main(["data", "check", name, str(folder), "--quiet", "--workers", "1"]) == 1
    said = capsys.readouterr().out.splitlines()
    faces = DATASETS[name](folder)
    for split, called in (("train", "training"), ("test", "test")):
        total = DATASETS[name].published.total(split)
        assert f"incomplete: {len(faces.splits[split])} of {total:,} {called} images" in said
    wrong = [line for line in said if line.startswith(("problem: ", "incomplete: "))]
    assert len([line for line in said if line.startswith("  fix: ")]) == len(wrong)
    assert not any("look like" in line or "cannot be read" in line for line in wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_names_the_files_of_the_miniature(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "layout", name]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) > 4
    folder = MINIATURES[name](tmp_path)
    lists = {path.name for path in folder.rglob("*") if path.suffix in (".csv", ".txt", ".mat")}
    assert all(file in shown for file in lists)
    assert lists or ".pts" in shown or "_exp.npy" in shown


def test_published_counts_are_those_of_the_papers() -> None:
    totals = {name: [DATASETS[name].published.total(split) for split in ("train", "test")] for name in NAMES}
    assert totals == {
        "rafdb": [12_271, 3_068],
        "ferplus": [25_045, 3_137],
        "affectnet7": [283_901, 3_500],
        "affectnet8": [287_651, 4_000],
        "celeba": [162_770, 19_962],
        "lfwa": [6_263, 6_880],
        "300w": [3_148, 689],
        "wflw": [7_500, 2_500],
        "cofw": [1_345, 507],
        "aflw": [20_000, 4_386],
    }
    assert sum(DATASETS["celeba"].published.total(split) for split in ("train", "val", "test")) == 202_599
    assert DATASETS["ferplus"].published.total("val") == 3_191


def test_a_dataset_as_published_has_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published_as("rafdb", put_rafdb(tmp_path), monkeypatch)
    assert cli.main(["data", "check", "rafdb", str(tmp_path), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"rafdb in {tmp_path}: 21 images (train 14, val 0, test 7)\nno problems: counts as")


def damage(folder: Path, name: str) -> None:
    """One of the ways in which a download goes wrong."""
    aligned, table = folder / "Image/aligned", folder / "EmoLabel/list_patition_label.txt"
    lines = table.read_text().splitlines()
    if name == "missing":
        (aligned / "train_00003_aligned.jpg").unlink()
        (aligned / "test_00001_aligned.jpg").unlink()
    elif name == "unreadable":
        path = aligned / "train_00002_aligned.jpg"
        path.write_bytes(path.read_bytes()[:200])
    elif name == "another size":
        put_picture(aligned / "test_00002_aligned.jpg", 52, width=120, height=90)
    elif name == "labels changed":
        lines[0] = "train_00001.jpg 2"
    elif name == "lines lost":
        lines = [line for line in lines if line != "test_00007.jpg 7"]
    elif name == "lines added":
        lines.append("train_00014.jpg 7")
    elif name == "label out of range":
        lines[4] = "train_00005.jpg 8"
    elif name == "the same picture":
        (aligned / "test_00003_aligned.jpg").write_bytes((aligned / "train_00011_aligned.jpg").read_bytes())
    elif name == "the same photo":
        brighter = np.clip(pixels(11, grey=False, width=100, height=100) * 0.8 + 30, 0, 255).astype(np.uint8)
        Image.fromarray(brighter).crop((1, 0, 100, 99)).resize((100, 100)).save(
            aligned / "test_00003_aligned.jpg", quality=60
        )
    put_lines(table, *lines)


DAMAGES = {
    "missing": ["2 of 21 listed images missing from"],
    "unreadable": ["cannot read 1 of 21 images"],
    "another size": ["1 of 21 images not 100 x 100"],
    "labels changed": ["the training images per class differ from the published numbers"],
    "lines lost": ["6 of 7 test images", "no test image has the expression neutral"],
    "lines added": ["15 training images instead of the published 14", "1 of 22 images listed more than once"],
    "label out of range": [r"line 5 of .* is 'train_00005\.jpg 8': expected .*labels 1 to 7"],
    "the same picture": ["1 of 7 test images also used for training or validation"],
    "the same photo": [r"1 of 7 test images similar to training or validation images \(1 pair:"],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_way_to_go_wrong_is_one_fault_with_one_fix(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published_as("rafdb", put_rafdb(tmp_path), monkeypatch)
    assert faults_of("rafdb", tmp_path) == []
    damage(tmp_path, name)
    assert cli.main(["data", "check", "rafdb", str(tmp_path), "--quiet"]) == 1
    said = capsys.readouterr().out.splitlines()
    wrong = [line for line in said if line.startswith(("problem: ", "incomplete: "))]
    assert len(wrong) == len(DAMAGES[name]) == len([line for line in said if line.startswith("  fix: ")])
    for line, message in zip(wrong, DAMAGES[name], strict=True):
        assert re.search(message, line)


def test_faults_say_which_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published_as("rafdb", put_rafdb(tmp_path), monkeypatch)
    for name in ("missing", "labels changed", "the same picture"):
        damage(tmp_path, name)
    where = [fault.where for fault in faults_of("rafdb", tmp_path)]
    assert where == [
        ("surprise 1, published 2", "fear 3, published 2"),
        ("test_00001_aligned.jpg", "train_00003_aligned.jpg"),
        ("test_00003_aligned.jpg = train_00011_aligned.jpg",),
    ]


def test_only_the_first_files_are_shown_unless_all_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_rafdb(tmp_path, size=90)
    command = ["data", "check", "rafdb", str(tmp_path), "--quiet"]
    assert cli.main(command) == 1
    assert "and 16 more (--all lists them)" in capsys.readouterr().out
    assert cli.main([*command, "--all"]) == 1
    assert capsys.readouterr().out.count(": 90 x 90") == 21


def test_images_of_two_splits_are_found(tmp_path: Path) -> None:
    faces = LabelledFaces(
        name="x",
        root=tmp_path,
        files=["a", "b", "c"],
        splits={"train": torch.tensor([0, 1]), "val": torch.tensor([], dtype=torch.long), "test": torch.tensor([1, 2])},
        tasks={"expression": Expression(("sad", "glad"))},
        targets={"expression": torch.tensor([0, 1, 0])},
    )
    assert [fault.where for fault in checking.list_faults(faces)] == [("b",)]


def test_a_validation_image_that_is_a_test_image_is_a_fault(tmp_path: Path) -> None:
    same = torch.from_numpy(pixels(1, width=32, height=32)).repeat(3, 1, 1)
    same[0] = torch.from_numpy(pixels(2, width=32, height=32))
    faces = LabelledFaces(
        "x",
        tmp_path,
        ["a", "b", "c"],
        {"train": torch.tensor([0]), "val": torch.tensor([1]), "test": torch.tensor([2])},
        {},
        {},
    )
    survey = Survey(same, [b"1", b"2", b"2"], torch.full((3, 2), 32), {})
    assert [fault.where for fault in checking.leak_faults(faces, survey)] == [("c = b",)]


def test_slopes_and_brightness_of_a_picture_worked_out_by_hand() -> None:
    # Brightness 4 x grows by 8 across each inner pixel from left to right and not at all downwards: each of the 30 x 30
    # slopes is 1 / sqrt(900) of the unit vector, and the mirrored picture has the opposite ones.
    ramp = (4 * torch.arange(32)).to(torch.uint8).expand(1, 32, 32)
    slopes = checking.slopes(ramp)[0]
    assert_close(slopes[:900], torch.full((900,), 1 / 30))
    assert_close(slopes[900:], torch.zeros(900))
    assert_close(checking.slopes(ramp.flip(2))[0], -slopes)
    # Twice the contrast and another level are the same vector, of length 1; a picture of one colour has none.
    plain, strong = checking.brightness(ramp // 2)[0], checking.brightness(ramp + 50)[0]
    assert_close(plain, strong)
    assert_close(plain.norm(), torch.tensor(1.0))
    assert checking.brightness(torch.full((1, 32, 32), 7, dtype=torch.uint8)).abs().sum() == 0


def test_look_alikes_are_found_across_the_blocks_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "READ_AT_ONCE", 4)
    small = torch.stack([torch.from_numpy(pixels(seed, width=32, height=32)) for seed in range(12)])
    small[11] = small[9] // 2 + 40
    small[10] = 0  # unreadable ones are alike to nothing, not even to each other
    small[0] = 0
    pairs = checking.look_alikes(small, torch.tensor([10, 11]), torch.arange(10))
    assert [(a, b) for a, b, _ in pairs] == [(11, 9)]
    assert pairs[0][2] > 0.99


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["layout", "rafdbb"], "no dataset named 'rafdbb'; did you mean 'rafdb'? (known: synthetic, rafdb"),
        (["check", "rafdbb", "."], "no dataset named 'rafdbb'"),
        (["check", "rafdb", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_folder_that_holds_something_else_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "celeba", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "does not hold celeba" in said[0]
    assert "fra data layout celeba" in said[1]


@pytest.mark.parametrize("name", ["missing", "label out of range"])
def test_transfer_on_such_a_folder_is_one_line_and_exit_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_rafdb(tmp_path / "data")
    damage(tmp_path / "data", name)
    command = ["transfer", "smoke/rafdb.linear", "--encoder", "random", "--data", str(tmp_path / "data")]
    assert cli.main([*command, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    expected = {"missing": "2 of 21 listed images missing", "label out of range": "labels 1 to 7"}
    assert expected[name] in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ferplus", "affectnet7", "affectnet8", "lfwa"])
def test_a_random_encoder_is_judged_on_a_miniature(name: str, tmp_path: Path) -> None:
    command = [
        "transfer",
        f"smoke/{name}.linear",
        "--encoder",
        "random",
        "--data",
        str(MINIATURES[name](tmp_path / "d")),
    ]
    small = ["--fraction", "1", "--set", "epochs=2", "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet"]
    assert cli.main([*command, *small]) == 0
    faces = DATASETS[name](tmp_path / "d")
    with open(tmp_path / "run/predictions.csv", newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == [faces.files[i] for i in faces.splits["test"]]


# Real faces


def test_the_real_rafdb_lacks_half_of_its_test_images_and_shares_photos_between_splits(real_faces: Path) -> None:
    faults = faults_of("rafdb", real_faces / "rafdb")
    assert faults[0].what == "1,534 of 3,068 test images"
    # Looked at: all 62 pairs show the same photo or the same series; the crying child alone is in many of them.
    assert [len(fault.where) for fault in faults[1:]] == [62]
    assert faults[1].where[0].startswith("test_1938_aligned.jpg ~ train_07956_aligned.jpg")


def test_the_real_celeba_selection_is_only_too_small(real_faces: Path) -> None:
    assert [fault.what for fault in faults_of("celeba", real_faces / "celeba")] == [
        "5,000 of 162,770 training images",
        "800 of 19,867 validation images",
        "1,200 of 19,962 test images",
    ]
