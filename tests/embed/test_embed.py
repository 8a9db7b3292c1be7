"""`fra embed`: features of every face as Python gives them, the same bytes after a kill, and faces that are alike."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from planted_tasks import SIZE, Told, grey

import fra
from fra import cli
from fra.crop import detectors
from fra.crop.detectors import Face
from fra.drawing.drawn_face import draw_face
from fra.embed import alike
from fra.embed import run as embedding
from fra.embed.run import NOT_FOR, EmbedSettings, embed
from fra.embed.store import FEATURES, Faces, Journal
from fra.faces.image import write_image
from fra.files import DamagedFile
from fra.models.encoder import Encoder, EncoderConfig
from fra.runtime import Runtime
from fra.weights.load import encoder_metadata, save_weights

HERE = Runtime(device="cpu", quiet=True)
CROPS = EmbedSettings(detector="none")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=SIZE))
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_weights(path, network.backbone, encoder_metadata(network))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten drawn faces below one folder, one of them in a folder of its own, and a file that is no picture."""
    folder = tmp_path / "photos"
    for seed in range(10):
        place = folder / "more" / "9.png" if seed == 9 else folder / f"{seed}.png"
        write_image(place, draw_face(seed, size=48).image)
    (folder / "bad.jpg").write_text("no picture")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def same_files(one: Path, other: Path) -> None:
    for name in ("features.npz", FEATURES, ".photos.jsonl", ".position.json", "skipped.csv", "embed.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


# --- what is written


def test_features_are_those_of_the_python_door(photos: Path, encoder: Path, tmp_path: Path) -> None:
    summary = embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    assert (summary.photos, summary.faces, dict(summary.skipped)) == (11, 10, {"unreadable": 1})
    with np.load(tmp_path / "out" / "features.npz") as found:
        assert sorted(found.files) == ["boxes", "faces", "features", "files", "scores"]
        assert found["files"].tolist() == [*(f"{seed}.png" for seed in range(9)), "more/9.png"]
        assert found["faces"].tolist() == [0] * 10
        assert found["scores"].tolist() == [1.0] * 10
        assert found["boxes"].tolist() == [[-0.5, -0.5, 47.5, 47.5]] * 10
        assert (found["features"].dtype, found["boxes"].dtype) == (np.float32, np.float32)
        expected = fra.load_encoder(encoder)([photos / name for name in found["files"]]).numpy()
        assert found["features"].shape == expected.shape == (10, 128)
        assert_allclose(found["features"], expected, atol=1e-5)
    record = json.loads((tmp_path / "out" / "embed.json").read_text())
    assert record["counts"] == {"photos": 11, "faces": 10, "skipped": {"unreadable": 1}}
    assert record["not_for"] == NOT_FOR
    assert [(row["photo"], row["reason"].partition(":")[0]) for row in rows(tmp_path / "out" / "skipped.csv")] == [
        ("bad.jpg", "unreadable")
    ]


def test_every_face_of_a_photo_is_cut_as_crop_cuts_it(tmp_path: Path, encoder: Path) -> None:
    photo = tmp_path / "photos" / "three.png"
    pictures = [draw_face(seed, size=160).image for seed in (1, 2, 3)]
    write_image(photo, torch.cat(pictures, dim=2))
    write_image(tmp_path / "photos" / "none.png", grey(200, 150))
    crops = fra.crop_faces(photo, size=SIZE)
    embed(tmp_path / "photos", tmp_path / "out", encoder, runtime=HERE)
    with np.load(tmp_path / "out" / "features.npz") as found:
        assert found["files"].tolist() == ["three.png"] * len(crops)
        assert found["faces"].tolist() == list(range(len(crops)))
        assert_allclose(found["features"], fra.load_encoder(encoder)(crops).numpy(), atol=1e-5)
        faces = fra.detect(photo)
        assert_allclose(found["boxes"], [face.box.tolist() for face in faces], atol=1e-3)
        assert_allclose(found["scores"], [face.score for face in faces], atol=1e-6)
    assert len(crops) > 1
    assert [row["photo"] for row in rows(tmp_path / "out" / "skipped.csv")] == ["none.png"]


def test_the_table_has_a_row_per_face(photos: Path, encoder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    table = parquet.read_table(tmp_path / "out" / "features.parquet")
    assert table.column_names == ["path", "face", "box", "score", "vector"]
    with np.load(tmp_path / "out" / "features.npz") as found:
        assert table["path"].to_pylist() == found["files"].tolist()
        assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), found["features"])
        assert np.array_equal(np.array(table["box"].to_pylist(), np.float32), found["boxes"])


def test_names_that_are_no_utf_8_and_long_ones_come_back(encoder: Path, tmp_path: Path) -> None:
    names = ["a" * 60 + ".png", "b\udcff.png"]
    for seed, name in enumerate(names):
        write_image(tmp_path / "photos" / name, draw_face(seed, size=40).image)
    embed(tmp_path / "photos", tmp_path / "out", encoder, CROPS, runtime=HERE)
    with np.load(tmp_path / "out" / "features.npz") as found:
        assert found["files"].tolist() == names


# --- killed and resumed


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    place: int, photos: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "PHOTOS_AT_ONCE", 4)
    embed(photos, tmp_path / "whole", encoder, CROPS, runtime=HERE)
    append, calls = Journal.append, []

    def stop(self: Journal, *arguments: object) -> None:
        if len(calls) == place:  # after the features are on disk, and before the position says so
            self._features.write(b"half a feature")
            self._features.flush()
            raise KeyboardInterrupt
        calls.append(arguments)
        append(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    assert not (tmp_path / "out" / "features.npz").exists()
    embed(photos, tmp_path / "out", encoder, CROPS, runtime=Runtime(device="cpu", quiet=True, resume=True))
    same_files(tmp_path / "whole", tmp_path / "out")


def test_a_finished_run_is_asked_again_without_computing(
    photos: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", str(photos), "--encoder", str(encoder), "--detector", "none", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "10 faces in 11 photos" in printed
    assert "11 photos: 10 used, 1 skipped (unreadable)" in printed
    assert "not made to identify people" in printed
    before = (tmp_path / "out" / "features.npz").read_bytes()
    monkeypatch.setattr(Journal, "append", None)
    assert cli.main(words) == 2
    assert "already holds a run of `fra embed`" in capsys.readouterr().err
    assert cli.main([*words, "--resume", "--neighbours", str(photos / "1.png")]) == 0
    assert "11 photos done before" in capsys.readouterr().out
    assert (tmp_path / "out" / "features.npz").read_bytes() == before
    assert len(rows(tmp_path / "out" / "neighbours.csv")) == 9


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--encoder", "laptop"], "was started with the encoder"),
        (["--detector", "retinaface"], "was started with detector none, not retinaface"),
        (["--min-score", "0.5"], "was started with min-score 0.6, not 0.5"),
    ],
)
def test_other_settings_are_refused(
    changed: list[str], said: str, photos: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    words = ["embed", str(photos), "--encoder", str(encoder), "--detector", "none", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--resume", *changed]) == 2
    assert said in capsys.readouterr().err
    write_image(photos / "new.png", grey(40, 40))
    assert cli.main([*words, "--resume"]) == 2
    assert "the photos have changed since" in capsys.readouterr().err


def test_damaged_features_are_told(photos: Path, encoder: Path, tmp_path: Path) -> None:
    embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    content = bytearray((tmp_path / "out" / FEATURES).read_bytes())
    content[100] ^= 1
    (tmp_path / "out" / FEATURES).write_bytes(content)
    with pytest.raises(DamagedFile, match="checksum does not match"):
        embed(photos, tmp_path / "out", encoder, CROPS, runtime=Runtime(device="cpu", quiet=True, resume=True))


# --- bad input


def test_nothing_to_embed_is_one_line(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no picture")
    write_image(tmp_path / "grey" / "a.png", grey(200, 150))
    write_image(tmp_path / "face" / "a.png", draw_face(0, size=48).image)
    monkeypatch.setattr(alike, "MOST_CLUSTERED", 0)
    none = ["--detector", "none"]
    for number, (folder, options, said) in enumerate(
        (
            ("nowhere", [], "no such file or folder"),
            ("bad", [], "can be read"),
            ("grey", [], "no face was found in 1 photo of"),
            ("face", [*none, "--neighbours", str(tmp_path / "bad" / "a.jpg")], "cannot read the image"),
            ("face", ["--neighbours", str(tmp_path / "grey" / "a.png")], "give --neighbours another photo"),
            ("face", [*none, "--encoder", "lptop"], "did you mean 'laptop'"),
            ("face", [*none, "--out", str(tmp_path / "face" / "out")], "is inside the photo folder"),
            ("face", [*none, "--clusters"], "too many to cluster"),
        )
    ):
        words = ["embed", str(tmp_path / folder), "--encoder", str(encoder), "--out", str(tmp_path / f"out{number}")]
        assert cli.main([*words, *options]) == 2, said
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("fra: ")
        assert said in error


def test_clusters_without_scikit_learn_are_one_line_before_any_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    assert cli.main(["embed", str(photos), "--clusters", "--out", str(tmp_path / "out")]) == 2
    assert "--clusters needs scikit-learn: run `pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- faces that are alike


def test_copies_are_listed_and_found_first(encoder: Path, tmp_path: Path, photos: Path) -> None:
    Image.open(photos / "3.png").save(photos / "copy of 3.jpg", quality=95)
    write_image(photos / "z.png", draw_face(7, size=48).image)
    settings = EmbedSettings(detector="none", neighbours=photos / "3.png", nearest=4)
    summary = embed(photos, tmp_path / "out", encoder, settings, runtime=HERE)
    found = rows(tmp_path / "out" / "duplicates.csv")
    assert {("copy of 3.jpg", "3.png"), ("z.png", "7.png")} <= {(row["photo"], row["earlier_photo"]) for row in found}
    assert summary.duplicates == len(found)
    assert all(0.998 <= float(row["cosine"]) <= 1.0001 for row in found)
    near = rows(tmp_path / "out" / "neighbours.csv")
    assert [row["rank"] for row in near] == ["1", "2", "3", "4"]
    assert near[0]["photo"] == "copy of 3.jpg"
    assert "3.png" not in [row["photo"] for row in near]
    cosines = [float(row["cosine"]) for row in near]
    assert cosines == sorted(cosines, reverse=True)
    assert (tmp_path / "out" / "neighbours.jpg").exists()


def planted(folder: Path, features: np.ndarray) -> Faces:
    """Faces with these features, one in each photo."""

    count = len(features)
    folder.mkdir(exist_ok=True)
    (folder / FEATURES).write_bytes(features.astype("<f4").tobytes())
    number = np.arange(count, dtype=np.int32)
    boxes, scores = np.zeros((count, 4), np.float32), np.ones(count, np.float32)
    return Faces(folder, features.shape[1], str, number, np.zeros(count, np.int32), boxes, scores)


def test_blocks_give_what_one_matrix_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    features[40] = 3 * features[7]
    monkeypatch.setattr("fra.embed.store.ROWS", 8)
    faces = planted(tmp_path / "planted", features)
    lengths = np.linalg.norm(features, axis=1)
    cosines = features @ features.T / np.outer(lengths, lengths)
    places, found = alike.nearest(faces, features[:3], count=5, without_photo=2)
    for number in range(3):
        expected = [place for place in np.argsort(-cosines[number], kind="stable") if place != 2][:5]
        assert places[number].tolist() == expected
        assert_allclose(found[number], cosines[number, expected], atol=1e-6)
    pairs = {(pair.face, pair.earlier): pair.cosine for pair in alike.near_duplicates(faces, 0.9)}
    earlier = np.tril(cosines, -1) + np.triu(np.full_like(cosines, -2))
    expected_pairs = {(face, int(earlier[face].argmax())) for face in range(1, 50) if earlier[face].max() >= 0.9}
    assert set(pairs) == expected_pairs
    assert pairs[(40, 7)] == pytest.approx(1, abs=1e-6)


def test_planted_groups_are_clusters(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    random = np.random.default_rng(1)
    centres = random.normal(size=(3, 40))
    sizes = (6, 12, 9)
    groups = [centre + 0.02 * random.normal(size=(size, 40)) for centre, size in zip(centres, sizes, strict=True)]
    labels, sure = alike.clusters(planted(tmp_path / "planted", np.concatenate([*groups, -centres])), least=5)
    assert labels.tolist() == [2] * 6 + [0] * 12 + [1] * 9 + [-1] * 3
    assert (sure[:27] > 0).all()
    few, _ = alike.clusters(planted(tmp_path / "few", centres), least=5)
    assert few.tolist() == [-1] * 3


def test_clusters_are_written_with_a_sheet_each(tmp_path: Path, encoder: Path) -> None:
    pytest.importorskip("sklearn")
    for seed in range(12):
        picture = draw_face(seed // 6, size=48).image.clone()
        picture[:, seed] = 128
        write_image(tmp_path / "photos" / f"{seed:02d}.png", picture)
    words = ["embed", str(tmp_path / "photos"), "--encoder", str(encoder), "--detector", "none", "--clusters"]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 0
    table = rows(tmp_path / "out" / "clusters.csv")
    groups = {row["cluster"] for row in table}
    assert len(table) == 12
    assert groups >= {"0", "1"}
    assert sorted(path.stem for path in (tmp_path / "out" / "clusters").iterdir()) == sorted(groups - {""})


def test_faces_of_photos_that_were_told(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of mixed sizes with two faces and with none, in one batch."""
    monkeypatch.setitem(detectors.DETECTORS, "told", Told)
    boxes = [[10.0, 10, 50, 60], [40.0, 20, 70, 50]]
    faces = [Face(torch.tensor(box), None, 0.9 - 0.1 * number) for number, box in enumerate(boxes)]
    monkeypatch.setattr(Told, "faces", {(100, 80): faces, (60, 90): faces[:1]}, raising=False)
    for name, size in (("a", (100, 80)), ("b", (30, 30)), ("c", (60, 90))):
        write_image(tmp_path / "photos" / f"{name}.png", grey(*size))
    summary = embed(tmp_path / "photos", tmp_path / "out", encoder, EmbedSettings(detector="told"), runtime=HERE)
    assert (summary.photos, summary.faces, summary.skipped["no face"]) == (3, 3, 1)
    with np.load(tmp_path / "out" / "features.npz") as found:
        assert list(zip(found["files"].tolist(), found["faces"].tolist(), strict=True)) == [
            ("a.png", 0),
            ("a.png", 1),
            ("c.png", 0),
        ]
        assert found["boxes"].tolist() == [*boxes, boxes[0]]


def test_the_archive_is_sound(photos: Path, encoder: Path, tmp_path: Path) -> None:
    embed(photos, tmp_path / "out", encoder, CROPS, runtime=HERE)
    with zipfile.ZipFile(tmp_path / "out" / "features.npz") as archive:
        assert archive.testzip() is None


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes(photos: Path, encoder: Path, tmp_path: Path) -> None:
    words = ["embed", str(photos), "--encoder", str(encoder), "--detector", "none", "--device", "cpu", "--quiet"]
    for name, more in (("alone", []), ("cluster", ["--cluster", "local"])):
        command = [sys.executable, "-m", "fra.cli", *words, "--out", str(tmp_path / name), *more]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for name in ("features.npz", "skipped.csv", "embed.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "cluster" / name).read_bytes()
