"""Downloads with landmarks: small ones in each layout are read, cut in four ways, checked, and judged when damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import landmark_miniatures as mini
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from fra import cli
from fra.data.check import check
from fra.data.crops import AnnotatedFaces, crop_squares
from fra.data.datasets import DATASETS, aflw, cofw
from fra.data.framing import Upright, framing_of
from fra.data.labelled import Dataset, LabelledFaces, Published
from fra.faces.geometry import box_matrix, square_box, transform_points
from fra.faces.image import UnreadableImage
from fra.faces.points import place_out_of, tight_boxes
from fra.runtime import Runtime

ALONE = Runtime(workers=1, quiet=True)

Put = Callable[[Path], Path]
LAYOUTS: dict[str, dict[str, Put]] = {
    "300w": {
        "pts": mini.put_300w_pts,
        "csv": mini.put_300w_csv,
        "csv of parts": lambda root: mini.put_300w_csv(root, parts=True),
        "tsv": mini.put_300w_tsv,
    },
    "wflw": {"txt": mini.put_wflw, "csv": mini.put_wflw_csv, "tsv": mini.put_wflw_tsv},
    "cofw": {
        "mat": mini.put_cofw,
        "mat below": lambda root: mini.put_cofw(root, below="documentation"),
        "tsv": mini.put_cofw_tsv,
    },
    "aflw": {"mat": mini.put_aflw, "csv": mini.put_aflw_csv},
}
EVERY = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]
SEEDS = {
    "300w": [0, 1, 2, 3, 4, 5],
    "wflw": [10, 11, 12, 13, 14],
    "cofw": [20, 21, 22],
    "aflw": [32, 30, 33, 31],  # in the order `ra`
}
TRAIN = {"300w": 3, "wflw": 2, "cofw": 2, "aflw": 2}
COUNTS = {"300w": 68, "wflw": 98, "cofw": 29, "aflw": 19}


@pytest.fixture(autouse=True)
def _two_training_faces_of_aflw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflw, "TRAINING_FACES", 2)


def points_of(faces: LabelledFaces) -> Tensor:
    """Landmarks in pixels of the photos."""
    assert faces.boxes is not None
    return place_out_of(faces.boxes, faces.tasks["landmarks"].places(faces.targets["landmarks"]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name, layout", EVERY)
def test_every_layout_gives_back_landmarks_splits_and_photos(name: str, layout: str, tmp_path: Path) -> None:
    faces = DATASETS[name](LAYOUTS[name][layout](tmp_path))
    truth = np.stack([mini.shape(seed, COUNTS[name]) for seed in SEEDS[name]])
    assert_close(points_of(faces), torch.tensor(truth, dtype=torch.float32), atol=2e-4, rtol=0)
    assert faces.splits["train"].tolist() == list(range(TRAIN[name]))
    assert faces.splits["test"].tolist() == list(range(TRAIN[name], len(truth)))
    for place, seed in enumerate(SEEDS[name]):
        shown, drawn = faces.picture(place).permute(1, 2, 0).numpy().astype(int), mini.picture(seed).astype(int)
        if name == "cofw" and seed == 21 and layout != "tsv":
            drawn = drawn[:, :, :1].repeat(3, 2)
        assert np.abs(shown - drawn).mean() < 4  # JPEG; another photo differs by about 60
    assert faces.image(0, size=32).shape == (3, 32, 32)


@pytest.mark.parametrize("name, layout", EVERY)
@pytest.mark.parametrize("crop", ["square", "star", "hrnet", "rect"])
def test_every_crop_has_the_landmarks_where_the_photo_has_them(
    name: str, layout: str, crop: str, tmp_path: Path
) -> None:
    folder = LAYOUTS[name][layout](tmp_path)
    if crop not in DATASETS[name].crops:
        with pytest.raises(ValueError, match="no crop named 'rect' for this dataset: choose square or star or hrnet"):
            DATASETS[name](folder, crop=crop)
        return
    if crop == "rect" and layout in ("csv", "tsv") and name != "aflw":
        with pytest.raises(ValueError, match="no face boxes: set crop to square, star or hrnet"):
            DATASETS[name](folder, crop=crop)
        return
    faces = DATASETS[name](folder, crop=crop)
    assert faces.crop == crop
    truth = np.stack([mini.shape(seed, COUNTS[name]) for seed in SEEDS[name]])
    assert_close(points_of(faces), torch.tensor(truth, dtype=torch.float32), atol=2e-4, rtol=0)


def test_the_star_crop_is_the_affine_map_of_the_specification() -> None:
    # centre (100, 60), scale .32: 64 pixels become 256 about (127.5, 127.5), four times as large
    points = torch.tensor([[[50.0, 28.0], [150.0, 92.0], [100.0, 60.0]]])  # 100 wide, 64 high
    [box] = crop_squares(AnnotatedFaces(["a"], points), "star")
    assert_close(
        transform_points(torch.tensor([[100.0, 60.0], [101.0, 58.0]]), box_matrix(box, 256)),
        torch.tensor([[127.5, 127.5], [131.5, 119.5]]),
    )


def test_the_sides_of_the_crops() -> None:
    points = torch.tensor([[[50.0, 28.0], [150.0, 92.0], [100.0, 60.0]]]).repeat(2, 1, 1)  # 100 wide, 64 high
    faces = AnnotatedFaces(["a", "b"], points, rectangles=torch.tensor([[0.0, 0.0, 30.0, 20.0]]).repeat(2, 1))
    expected = {"square": [0, -40, 200, 160], "star": [68, 28, 132, 92], "hrnet": [37.5, -2.5, 162.5, 122.5],
                "rect": [0, -5, 30, 25]}  # fmt: skip
    for crop, box in expected.items():
        assert crop_squares(faces, crop).tolist() == [box, box]
    assert_close(crop_squares(faces, "square"), torch.stack([square_box(box, 1.0) for box in tight_boxes(points)]))


@pytest.mark.parametrize("name, layout, crop, box", [
    # HRNet's scale .25 is 50 pixels, times 1.25; 300-W's centre (47, 32) is two pixels too far
    ("300w", "csv", "hrnet", [45 - 31.25, 30 - 31.25, 45 + 31.25, 30 + 31.25]),
    ("wflw", "csv", "hrnet", [45 - 31.25, 30 - 31.25, 45 + 31.25, 30 + 31.25]),
    ("aflw", "csv", "hrnet", [45 - 31.25, 30 - 31.25, 45 + 31.25, 30 + 31.25]),
    # STAR's scale .2 is 40 pixels
    ("300w", "tsv", "star", [26, 11, 66, 51]),
    ("wflw", "tsv", "star", [26, 11, 66, 51]),
    # 20 10 70 40: 50 wide about (45, 25); the same as x y width height in COFW
    ("wflw", "txt", "rect", [20, 0, 70, 50]),
    ("cofw", "mat", "rect", [20, 0, 70, 50]),
    ("aflw", "mat", "rect", [25, 10, 65, 50]),
])  # fmt: skip
def test_lists_that_name_squares_are_cut_by_them(
    name: str, layout: str, crop: str, box: list[float], tmp_path: Path
) -> None:
    faces = DATASETS[name](LAYOUTS[name][layout](tmp_path), crop=crop)
    assert faces.boxes is not None
    assert_close(faces.boxes, torch.tensor([box] * len(faces.files), dtype=torch.float32), atol=1e-4, rtol=0)


def test_what_a_star_crop_shows_beyond_the_photo_is_black(tmp_path: Path) -> None:
    for folder in ("helen/trainset", "helen/testset"):
        mini.put_pts(tmp_path, f"{folder}/a", 0)
        Image.new("RGB", (40, 30), (255, 255, 255)).save(tmp_path / folder / "a.jpg")  # the face lies half outside
    star, square = (DATASETS["300w"](tmp_path, crop=crop).image(0, size=32) for crop in ("star", "square"))
    assert star[:, -1, -1].tolist() == [0, 0, 0]
    assert square[:, -1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("layout", LAYOUTS["300w"])
def test_ibug_is_the_challenging_subset(layout: str, tmp_path: Path) -> None:
    faces = DATASETS["300w"](LAYOUTS["300w"][layout](tmp_path))
    subset = faces.groups["subset"]
    assert [("", *subset.names)[number + 1] for number in subset.of.tolist()] == [
        "", "", "", "common", "common", "challenging",
    ]  # fmt: skip
    assert faces.files[-1] == "ibug/image_092 _01.jpg"


@pytest.mark.parametrize("layout", LAYOUTS["wflw"])
def test_the_six_attributes_of_wflw(layout: str, tmp_path: Path) -> None:
    faces = DATASETS["wflw"](LAYOUTS["wflw"][layout](tmp_path))
    assert list(faces.groups) == ["pose", "expression", "illumination", "make-up", "occlusion", "blur"]
    found = torch.stack([groups.of for groups in faces.groups.values()], 1)[faces.splits["test"]]
    flags = [flags for _, flags in mini.WFLW["test"].values()]
    assert ["".join(map(str, row)) for row in found.tolist()] == flags


def test_wflw_without_the_lists_of_subsets_has_none(tmp_path: Path) -> None:
    assert DATASETS["wflw"](mini.put_wflw_csv(tmp_path, subsets=False)).groups == {}


@pytest.mark.parametrize("layout", LAYOUTS["aflw"])
def test_aflw_has_frontal_faces_and_the_size_of_the_box(layout: str, tmp_path: Path) -> None:
    faces = DATASETS["aflw"](LAYOUTS["aflw"][layout](tmp_path))
    assert faces.groups["subset"].names == ("frontal", "other")
    assert faces.groups["subset"].of.tolist() == [-1, -1, 1, 0]
    assert faces.boxes is not None
    side = (faces.boxes[:, 2] - faces.boxes[:, 0])[:, None]
    # 40 x 30 pixels; HRNet's lists have the root of the area alone
    width, height = (40.0, 30.0) if layout == "mat" else (1200**0.5, 1200**0.5)
    assert_close(faces.targets["landmarks"][:, 19] * side / 2, torch.tensor([[width, height]] * 4))


def test_a_cofw_picture_that_is_none_is_unreadable(tmp_path: Path) -> None:
    path = mini.put_cofw(tmp_path) / "COFW_test_color.mat"
    with h5py.File(path, "r+") as file:
        file["IsT"][0, 0] = file.create_dataset("#refs#/bad", data=np.zeros((4, 5, 6), dtype=np.uint8)).ref
    faces = cofw.read(tmp_path)
    with pytest.raises(UnreadableImage, match="picture 1 is uint8 of shape \\(4, 5, 6\\)"):
        faces.image(2, size=32)
    [*_, fault] = [fault for fault in check("cofw", tmp_path, runtime=ALONE)[1] if "read" in fault.what]
    assert fault.what == "cannot read 1 of 3 images"


DAMAGES = [
    ("300w", "csv", "face_landmarks_300w_train.csv", "center_w", "centre", "begins with 'image_name,scale,centre"),
    ("300w", "csv", "face_landmarks_300w_train.csv", ",0.25,", ",wide,", "line 2 of .* has 'wide' where a number"),
    ("300w", "csv", "face_landmarks_300w_valid.csv", "0.25,", "", "line 2 of .* has 139 columns where"),
    ("300w", "tsv", "annotations/300W/test.tsv", "\t46\t", "\tnan\t", "line 1 of .* has 'nan' where a number"),
    ("300w", "tsv", "annotations/300W/test.tsv", "\t0.2\t46\t31", "", "line 1 of .* with tabs between them, not 3"),
    ("wflw", "tsv", "train.tsv", "1,2,3,4,5,6,7,8,9,10\t", "1\t2\t", "line 1 of .* has 1 coordinate: expected 196"),
    ("wflw", "txt", mini.WFLW_TABLE.format("test"), " 20 10 70 40 ", " ", "line 1 of .* expected 196 coordinates"),
    ("wflw", "txt", mini.WFLW_TABLE.format("test"), " 1 1 0", " 2 1 0", "line 1 of .* flags of 0 or 1"),
    ("aflw", "csv", "face_landmarks_aflw_test.csv", "box_size,", "", "begins with|has 43 columns"),
]  # fmt: skip


@pytest.mark.parametrize("name, layout, table, before, after, message", DAMAGES)
def test_a_damaged_list_is_named(
    name: str, layout: str, table: str, before: str, after: str, message: str, tmp_path: Path
) -> None:
    path = LAYOUTS[name][layout](tmp_path) / table
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=message) as error:
        DATASETS[name](tmp_path)
    assert "\n" not in str(error.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    (mini.put_wflw(tmp_path / "a") / mini.WFLW_TABLE.format("test")).unlink()
    (mini.put_cofw(tmp_path / "b") / "COFW_test_color.mat").unlink()
    (mini.put_aflw_csv(tmp_path / "c") / "face_landmarks_aflw_test_frontal.csv").unlink()
    (mini.put_cofw_tsv(tmp_path / "d") / "annotations/test.tsv").unlink()
    for name, folder, message in (("wflw", "a", "list_98pt_rect_attr_test.txt is missing"),
                                  ("cofw", "b", "COFW_test_color.mat is missing"),
                                  ("aflw", "c", "lacks one or more of face_landmarks_aflw_train.csv"),
                                  ("cofw", "d", "has no test.tsv beside train.tsv")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            DATASETS[name](tmp_path / folder)


@pytest.mark.parametrize("content", [b"nothing of the kind", b""])
@pytest.mark.parametrize("name, file", [("cofw", "COFW_train_color.mat"), ("aflw", "AFLWinfo_release.mat")])
def test_a_file_that_is_not_matlabs_is_named(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    (LAYOUTS[name]["mat"](tmp_path) / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is not a complete MATLAB"):
        DATASETS[name](tmp_path)


def as_published(name: str, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch, **groups: dict[str, int]) -> None:
    """As if these faces were all that was ever published."""
    dataset = DATASETS[name]
    images = {split: len(places) for split, places in faces.splits.items()}
    alike = Dataset(dataset.read, dataset.layout, Published(images, groups=groups), dataset.crops)
    monkeypatch.setitem(DATASETS, name, alike)


@pytest.mark.parametrize("name, layout", EVERY)
def test_a_complete_download_has_no_fault(
    name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = LAYOUTS[name][layout](tmp_path)
    as_published(name, DATASETS[name](folder), monkeypatch)
    assert cli.main(["data", "check", name, str(folder), "--quiet", "--workers", "1"]) == 0, capsys.readouterr().out


def test_each_fault_of_landmarks_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.put_wflw(tmp_path)
    path = tmp_path / mini.WFLW_TABLE.format("test")
    lines = path.read_text().splitlines()
    far = lines[0].split()
    far[:196] = [f"{float(value) + 60:g}" for value in far[:196]]  # to the right and below: mostly outside of 90 x 70
    flat = lines[1].split()
    flat[144:146] = flat[120:122]  # outer eye corners 72 and 60 in one place
    mini.put_text(path, " ".join(far), " ".join(flat), lines[2], lines[2])
    as_published("wflw", DATASETS["wflw"](tmp_path), monkeypatch, pose={"yes": 2})
    faults = check("wflw", tmp_path, runtime=ALONE)[1]
    said = {fault.what.split(",")[0]: fault.where for fault in faults}
    assert [fault.what for fault in faults][:3] == [
        "the test images per group differ from the published numbers",
        "the inter-ocular distance of 1 face is 0, so errors cannot be divided by it",
        "1 of 6 faces listed more than once",
    ]
    assert faults[3].what.startswith("1 face with most landmarks outside of the image (98 landmarks")
    assert [fault.where for fault in faults] == [
        ("pose yes 1, published 2",), ("1--B/d.jpg",), ("1--B/e.jpg",), ("0--A/c.jpg",),
    ]  # fmt: skip
    assert len(faults) == len(said) == 4


def test_subsets_without_lists_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mini.put_wflw_csv(tmp_path, subsets=False)
    as_published("wflw", DATASETS["wflw"](folder), monkeypatch, pose={"yes": 1})
    [fault] = check("wflw", folder, runtime=ALONE)[1]
    assert fault.what == "no list says which test images belong to which pose"


@pytest.mark.parametrize("name, crop", [("wflw", "star"), ("aflw", None)])
def test_results_name_crop_normaliser_and_subsets(
    name: str, crop: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = LAYOUTS[name][{"wflw": "txt", "aflw": "mat"}[name]](tmp_path / "data")
    recipe = tmp_path / "mine.yaml"
    setting = f"crop: {crop}\n" if crop else ""
    recipe.write_text(f"name: mine\ntask: landmarks\ndataset: {name}\n{setting}image_size: 32\n")
    command = ["transfer", str(recipe), "--encoder", "random", "--data", str(folder), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "run/results.json").read_text())
    faces = DATASETS[name](folder, crop=crop)
    targets = faces.tasks["landmarks"].places(faces.targets["landmarks"])[faces.splits["test"]]  # type: ignore[attr-defined]
    beyond = (targets.abs() > 1.0001).any(2)
    outside = {"landmarks": int(beyond.sum()), "faces": int(beyond.any(1).sum())}
    assert results["crop"] == {"name": crop or "hrnet", "outside": outside}
    assert f"faces are cropped as {crop or 'hrnet'}, around the annotated face: {outside['landmarks']} landmark" in said
    normaliser = {"wflw": "inter-ocular", "aflw": "diag"}[name]
    assert results["metrics"]["nme"]["normaliser"] == normaliser
    mean = results["metrics"]["nme"]["mean"]
    assert results["normalisers"][normaliser]["nme"] == pytest.approx(mean)
    if name == "wflw":
        assert outside["landmarks"] > 0
        assert results["groups"]["blur"]["yes"]["images"] == 1
        assert set(results["groups"]["pose"]["no"]) == {"images", "nme", "failure_rate@10", "auc@10"}
        halves = results["groups"]["pose"].values()
        assert sum(group["images"] * group["nme"] for group in halves) / 3 == pytest.approx(mean)
    else:
        assert outside["landmarks"] == 0
        assert results["normalisers"]["box"]["nme"] == pytest.approx(mean * 50 / 1200**0.5)  # of 40 x 30
        by = {
            "nme": "diag",
            "failure_rate@7": "box",
            "auc@7": "box",
            "failure_rate@7_diag": "diag",
            "auc@7_diag": "diag",
        }
        assert {name: found["normaliser"] for name, found in results["metrics"].items()} == by
        for name, normaliser in by.items():
            mean = results["normalisers"][normaliser][name.removesuffix("_diag")]
            assert results["metrics"][name]["mean"] == pytest.approx(mean)
        assert results["groups"]["subset"]["frontal"]["images"] == 1
    head = (tmp_path / "run/predictions.csv").read_text().splitlines()[0]
    assert head.endswith("group_blur" if name == "wflw" else "group_subset")


def test_a_crop_of_a_dataset_without_any_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no crop named 'star' for this dataset: it has only one, leave crop out"):
        DATASETS["rafdb"](tmp_path, crop="star")


def test_a_photo_is_framed_as_the_crop_of_the_task() -> None:
    assert framing_of("300w") == framing_of("300w", "square") == Upright(1.6, 0.13, "edge")
    assert framing_of("wflw", "star") == Upright(0.75, 0.13, "zero")
    assert framing_of("cofw", "hrnet") == Upright(0.93, 0.13, "zero")


# Real faces


def test_the_real_300w_selection_is_only_too_small_and_loses_landmarks_to_the_star_crop(real_faces: Path) -> None:
    faults = check("300w", real_faces / "300w", runtime=Runtime(quiet=True))[1]
    assert [fault.what for fault in faults] == ["1,207 of 3,148 training images", "165 of 689 test images"]
    outside = {}
    for crop in DATASETS["300w"].crops:
        faces = DATASETS["300w"](real_faces / "300w", crop=crop)
        outside[crop] = faces.tasks["landmarks"].outside(faces.targets["landmarks"][faces.splits["test"]])  # type: ignore[attr-defined]
    nothing = {"landmarks": 0, "faces": 0}
    assert outside == {"square": nothing, "hrnet": nothing, "star": {"landmarks": 634, "faces": 100}}
