"""`fra regions MODEL --faces CLIP` on a clip of drawn faces with known truth."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_clip import SIDE, DrawnClip, draw_clip

from fra.cli import main
from fra.data.framing import CROPS
from fra.faces import pictures
from fra.faces.clip import frames_of
from fra.models.region_head import assignment, owners
from fra.predict.region_clip import paint
from fra.weights.load import load_region_model

MODEL = "laptop_fine"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> DrawnClip:
    return draw_clip(tmp_path_factory.mktemp("clips") / "two.mp4", count=20, even=False, sound="aac")


@pytest.fixture(scope="module")
def found(clip: DrawnClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("regions") / "out"
    assert regions(clip.path, out) == 0
    return out


def regions(path: Path, out: Path, *more: str) -> int:
    words = ["regions", MODEL, "--faces", str(path), "--out", str(out), "--threads", "1", "--quiet"]
    return main([*words, *more])


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "regions.json").read_text())


def test_every_face_of_every_frame_has_the_regions_that_the_model_gives_for_its_crop(
    clip: DrawnClip, found: Path
) -> None:
    model, document = load_region_model(MODEL), read(found)
    heatmaps = np.load(found / "heatmaps.npz")
    faces = [(entry["frame"], face) for entry in document["frames"] for face in entry["faces"]]
    assert (document["faces"], len(faces), len(heatmaps["heatmaps"])) == (40, 40, 40)
    assert heatmaps["frames"].tolist() == [frame for frame, _ in faces]
    assert heatmaps["tracks"].tolist() == [face["track"] for _, face in faces]
    frames = [frame.image for frame in frames_of(clip.path)]
    for row in (0, 1, 38, 39):
        number, face = faces[row]
        image, said = frames[number], face["answers"]["regions"]
        assert image is not None
        crop, _ = CROPS.cut(image, torch.tensor(face["box"]), None, int(model.encoder.image_size))
        with torch.inference_mode():
            output = model(crop[None] / 255)
        maps = output.heatmaps[0].numpy()
        assert heatmaps["heatmaps"][row] == pytest.approx(maps, abs=2e-3)
        sharp = assignment(output.scores)[0]
        shares = torch.bincount(owners(sharp[None]).flatten(), minlength=8) / 64
        assert said["areas"] == pytest.approx(shares.tolist(), abs=0.05)
        left, _, right, _ = said["square"]
        columns = torch.tensor([left + (place + 0.5) / 8 * (right - left) - 0.5 for place in range(8)])
        middle = (sharp.sum(1) @ columns) / sharp.sum((1, 2))
        assert [x for x, _ in said["centres"]] == pytest.approx(middle.tolist(), abs=1.0)
        # a quarter more than the box's longer side, about the box's middle
        x1, y1, x2, y2 = face["box"]
        assert right - left == pytest.approx(1.25 * max(x2 - x1 + 1, y2 - y1 + 1), abs=1.5)
        assert (left + right) / 2 - 0.5 == pytest.approx((x1 + x2) / 2, abs=1e-2)
    shares = np.mean([face["answers"]["regions"]["areas"] for _, face in faces], 0)
    assert document["shares"] == pytest.approx(shares.tolist(), abs=1e-6)
    assert sum(document["shares"]) == pytest.approx(1)


def test_the_table_has_a_row_for_each_frame_and_face(found: Path) -> None:
    from pyarrow import parquet

    with (found / "faces.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    faces = [(entry, face) for entry in read(found)["frames"] for face in entry["faces"]]
    for row, (entry, face) in zip(rows, faces, strict=True):
        said = face["answers"]["regions"]
        assert (int(row["frame"]), int(row["track"])) == (entry["frame"], face["track"])
        assert [float(row[f"region{number}_area"]) for number in range(1, 9)] == said["areas"]
        assert [float(row["region3_x"]), float(row["region3_y"])] == said["centres"][2]
        assert float(row["entropy"]) == said["entropy"]
    table = parquet.read_table(found / "faces.parquet").to_pylist()
    assert [row["region8_y"] for row in table] == [face["answers"]["regions"]["centres"][7][1] for _, face in faces]


def test_the_annotated_clip_shows_regions_on_the_faces_and_one_heatmap_on_request(
    clip: DrawnClip, found: Path, tmp_path: Path
) -> None:
    assert regions(clip.path, tmp_path / "out", "--region", "3") == 0
    mosaic, one = (list(frames_of(out / "annotated.mp4")) for out in (found, tmp_path / "out"))
    assert [frame.seconds for frame in mosaic] == pytest.approx(clip.seconds, abs=1e-3)
    for shown, other, drawn, entry in zip(mosaic, one, clip.frames, read(found)["frames"], strict=True):
        assert shown.image is not None
        assert other.image is not None
        beside = torch.ones(drawn.shape[1:], dtype=torch.bool)
        for face in entry["faces"]:
            left, top, right, bottom = (round(edge) for edge in face["answers"]["regions"]["square"])
            beside[max(top - 24, 0) : bottom + 4, left - 4 : right + 4] = False  # the number stands above the box
        here = (slice(None), slice(max(top, 0), bottom), slice(left, right))
        for image in (shown.image, other.image):
            assert (image[here].float() - drawn[here].float()).abs().mean() > 15
            assert (image[:, beside].float() - drawn[:, beside].float()).abs().mean() < 3
        assert (shown.image[here].float() - other.image[here].float()).abs().mean() > 15
    answers = [json.dumps(read(out)) for out in (found, tmp_path / "out")]
    assert answers[0] == answers[1]


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(clip: DrawnClip, found: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert regions(clip.path, out) == 0
    content = (out / ".answers.jsonl").read_bytes()
    (out / ".answers.jsonl").write_bytes(content[: int(0.9 * len(content))])
    for made in ("regions.json", "faces.csv", "heatmaps.npz"):
        (out / made).unlink()
    assert regions(clip.path, out, "--resume") == 0
    for made in ("regions.json", "faces.csv"):
        assert (out / made).read_bytes() == (found / made).read_bytes()
    now, before = (np.load(folder / "heatmaps.npz")["heatmaps"] for folder in (out, found))
    assert (now == before).all()


def test_between_detections_the_regions_are_those_of_where_the_face_has_come(clip: DrawnClip, tmp_path: Path) -> None:
    assert regions(clip.path, tmp_path / "out", "--every", "3") == 0
    for entry in read(tmp_path / "out")["frames"]:
        assert len(entry["faces"]) == 2
        for face in entry["faces"]:
            assert (face["score"] is None) == (entry["frame"] % 3 != 0)
            left, _, right, _ = face["answers"]["regions"]["square"]
            lane = int(left > 160 - 50)
            assert (left + right) / 2 == pytest.approx(clip.places[lane][entry["frame"]][0] + SIDE / 2, abs=16)


def test_without_a_detector_each_frame_is_a_face(tmp_path: Path) -> None:
    drawn = draw_clip(tmp_path / "a.mp4", count=4, faces=(3,), size=(128, 128))
    assert regions(drawn.path, tmp_path / "out", "--detector", "none") == 0
    faces = [face for entry in read(tmp_path / "out")["frames"] for face in entry["faces"]]
    assert [face["answers"]["regions"]["square"] for face in faces] == [pytest.approx([0, 0, 128, 128])] * 4
    assert [face["track"] for face in faces] == [1] * 4


def test_a_clip_without_faces_has_empty_tables(tmp_path: Path) -> None:
    empty = draw_clip(tmp_path / "b.mp4", count=4, faces=(), size=(128, 128))
    assert regions(empty.path, tmp_path / "out") == 0
    assert (read(tmp_path / "out")["faces"], len(read(tmp_path / "out")["frames"])) == (0, 4)
    assert (tmp_path / "out/faces.csv").read_text().splitlines() == ["frame,seconds,track,x1,y1,x2,y2,score"]
    assert np.load(tmp_path / "out/heatmaps.npz")["tracks"].shape == (0,)
    assert len(list(frames_of(tmp_path / "out/annotated.mp4"))) == 4


def test_regions_are_painted_where_they_were_seen_also_at_the_edge() -> None:
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    maps = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]])  # the left half is the first region's
    painted = paint(image, maps, [-20.0, 10.0, 20.0, 50.0])
    first, second = pictures.region_colours(2)
    mixed = [round(0.45 * 100 + 0.55 * value) for value in second]  # strength .55
    assert painted[:, 30, 10].tolist() == pytest.approx(mixed, abs=1)
    assert (painted[:, 30, 0] - painted[:, 30, 10]).abs().sum() == 0  # the half of the first lies outside
    assert torch.equal(painted[:, :10], image[:, :10])
    assert torch.equal(painted[:, :, 20:], image[:, :, 20:])
    assert torch.equal(paint(image, maps, [70.0, 10.0, 90.0, 30.0]), image)
    hot = paint(image, maps, [10.0, 0.0, 50.0, 40.0], region=0, span=(0.0, 1.0))
    assert hot[0, 20, 12] > hot[2, 20, 12]  # red where it is strong
    assert hot[0, 20, 47] < hot[2, 20, 47]
    assert first != second


def test_bad_input_is_one_clear_line(clip: DrawnClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for more, message in (
        (["--region", "9"], "--region is 9: laptop_fine has regions 1 to 8"),
        (["--top", "2"], "--top is for face crops, not for a video clip"),
    ):
        assert regions(clip.path, out, *more) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
        assert not out.exists()
    assert regions(tmp_path, out, "--every", "2", "--detector", "none") == 2
    assert "--every and --detector are for video clips only" in capsys.readouterr().err
