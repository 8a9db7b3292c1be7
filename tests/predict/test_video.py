"""Clips of drawn faces with known truth: read, followed, resumed, written again."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from drawn_clip import SIDE, DrawnClip, draw_clip
from resident import resident

from fra.cli import main
from fra.faces.clip import Clip, frames_of, is_clip
from fra.predict.following import Analyst

TASK = "laptop_age"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> DrawnClip:
    """Two faces, frames at uneven times, sound."""
    return draw_clip(tmp_path_factory.mktemp("clips") / "two.mp4", even=False, sound="aac")


@pytest.fixture(scope="module")
def answers(clip: DrawnClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answers") / "out"
    assert predict(clip.path, out) == 0
    return out


def predict(path: Path, out: Path, *more: str) -> int:
    return main(["predict", str(path), "--task", TASK, "--out", str(out), "--threads", "1", "--quiet", *more])


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "predictions.json").read_text())


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


def test_frames_come_with_their_pixels_and_times(clip: DrawnClip) -> None:
    frames = list(frames_of(clip.path))
    assert [frame.number for frame in frames] == list(range(24))
    assert [frame.seconds for frame in frames] == pytest.approx(clip.seconds, abs=1e-3)
    for frame, drawn in zip(frames, clip.frames, strict=True):
        assert frame.image is not None
        assert difference(frame.image, drawn) < 3
    facts = Clip.open(clip.path)
    assert (facts.height, facts.width, facts.frames, facts.sound) == (200, 320, 24, True)


def test_nothing_else_is_called_a_clip() -> None:
    assert is_clip("a/B.MP4")
    assert not any(map(is_clip, ("a.jpg", "mp4", "a.txt", "folder", "a.mp4.png")))


def test_damaged_frames_are_counted_and_the_others_read(clip: DrawnClip, tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    content = bytearray(clip.path.read_bytes())
    with av.open(str(clip.path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content[packets[8].pos : packets[8].pos + packets[8].size] = b"\0" * packets[8].size
    path.write_bytes(content)
    frames = list(frames_of(path))
    lost = [frame.number for frame in frames if frame.image is None]
    assert 1 <= len(lost) < len(frames) == 24
    times = [frame.seconds for frame in frames]
    assert times == sorted(set(times))
    assert predict(path, tmp_path / "out") == 0
    entries = read(tmp_path / "out")["frames"]
    assert [entry["frame"] for entry in entries if "unreadable" in entry] == lost
    assert all(not entries[number]["faces"] for number in lost)


def test_each_face_has_one_track_whose_box_is_where_it_was_drawn(clip: DrawnClip, answers: Path) -> None:
    found = read(answers)
    assert found["clip"]["frames"] == 24
    lanes: dict[int, set[int]] = {0: set(), 1: set()}
    for entry, seconds in zip(found["frames"], clip.seconds, strict=True):
        assert entry["seconds"] == pytest.approx(seconds, abs=1e-3)
        assert len(entry["faces"]) == 2
        for face in entry["faces"]:
            middle = (face["box"][0] + face["box"][2]) / 2
            lane = int(middle > 160)
            lanes[lane].add(face["track"])
            assert middle == pytest.approx(clip.places[lane][entry["frame"]][0] + SIDE / 2, abs=8)
            assert sum(face["answers"][TASK]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert sorted(map(sorted, lanes.values())) == [[1], [2]]


def test_detecting_every_third_frame_follows_the_faces_in_between(clip: DrawnClip, tmp_path: Path) -> None:
    assert predict(clip.path, tmp_path / "out", "--every", "3") == 0
    for entry in read(tmp_path / "out")["frames"]:
        assert sorted(face["track"] for face in entry["faces"]) == [1, 2]
        for face in entry["faces"]:
            assert (face["score"] is None) == (entry["frame"] % 3 != 0)
            lane = int(face["box"][0] > 160 - 40)
            middle = (face["box"][0] + face["box"][2]) / 2
            assert middle == pytest.approx(clip.places[lane][entry["frame"]][0] + SIDE / 2, abs=16)


def test_the_tables_hold_what_the_json_says(answers: Path) -> None:
    from pyarrow import parquet

    with (answers / "faces.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    faces = [(entry, face) for entry in read(answers)["frames"] for face in entry["faces"]]
    assert len(rows) == len(faces) == 48
    for row, (entry, face) in zip(rows, faces, strict=True):
        assert (int(row["frame"]), int(row["track"])) == (entry["frame"], face["track"])
        assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == face["box"]
        assert row[f"{TASK}_age"] == face["answers"][TASK]["age"]
        assert float(row[f"{TASK}_probability_3-9"]) == face["answers"][TASK]["probabilities"]["3-9"]
    table = parquet.read_table(answers / "faces.parquet").to_pylist()
    assert [row["track"] for row in table] == [face["track"] for _, face in faces]
    assert [row["x1"] for row in table] == [face["box"][0] for _, face in faces]


def test_the_annotated_clip_has_the_same_frames_times_and_sound(clip: DrawnClip, answers: Path) -> None:
    frames = list(frames_of(answers / "annotated.mp4"))
    assert [frame.seconds for frame in frames] == pytest.approx(clip.seconds, abs=1e-3)
    changed = [difference(frame.image, drawn) for frame, drawn in zip(frames, clip.frames, strict=True)]  # type: ignore[arg-type]
    assert min(changed) > 1  # boxes and words
    assert max(changed) < 25
    with av.open(str(clip.path)) as before, av.open(str(answers / "annotated.mp4")) as after:
        sounds = [[bytes(packet) for packet in one.demux(audio=0) if packet.size] for one in (before, after)]
    assert sounds[0] == sounds[1]
    assert len(sounds[0]) > 5


def test_sound_that_an_mp4_does_not_take_is_written_anew_and_odd_sizes_are_cut(tmp_path: Path) -> None:
    drawn = draw_clip(tmp_path / "a.mov", count=8, faces=(3,), size=(161, 201), sound="pcm_s16le")
    assert predict(drawn.path, tmp_path / "out") == 0
    with av.open(str(tmp_path / "out/annotated.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        heard = sum(frame.samples for frame in container.decode(audio=0))
        assert heard / container.streams.audio[0].rate == pytest.approx(0.32, abs=0.15)
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 200)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_clip_that_was_filmed_sideways_is_upright(tmp_path: Path, degrees: int) -> None:
    drawn = draw_clip(tmp_path / "a.mp4", count=2, faces=(3,), size=(160, 200), rotation=degrees)
    frame = next(frames_of(drawn.path)).image
    assert frame is not None
    assert frame.shape == (3, 200, 160)
    assert difference(frame, drawn.frames[0]) < 3
    assert (Clip.open(drawn.path).height, Clip.open(drawn.path).width) == (200, 160)


@pytest.mark.parametrize("cut", [0.3, 0.97])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    clip: DrawnClip, answers: Path, tmp_path: Path, cut: float
) -> None:
    out = tmp_path / "out"
    assert predict(clip.path, out) == 0
    journal = out / ".answers.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(cut * len(content))])
    for made in ("predictions.json", "faces.csv", "annotated.mp4"):
        (out / made).unlink()
    assert predict(clip.path, out, "--resume") == 0
    for made in ("predictions.json", "faces.csv"):
        assert (out / made).read_bytes() == (answers / made).read_bytes()


def test_another_question_is_not_mixed_in(clip: DrawnClip, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(clip.path, answers, "--resume", "--every", "2") == 2
    assert "was started with other every" in capsys.readouterr().err


def test_bad_input_is_one_clear_line(
    clip: DrawnClip, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, sound = tmp_path / "text.mp4", tmp_path / "sound.mp4"
    text.write_text("no clip")
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        container.mux(stream.encode(None))
    (tmp_path / "half.mp4").write_bytes(clip.path.read_bytes()[:3000])
    out = tmp_path / "out"
    for path, message in (
        (text, "text.mp4 cannot be read as a video"),
        (tmp_path / "half.mp4", "half.mp4 cannot be read as a video"),
        (sound, "sound.mp4"),
        (tmp_path / "none.mp4", "none.mp4 cannot be read as a video: No such file or directory"),
    ):
        assert predict(path, out) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
        assert not out.exists()
    both = ["predict", str(clip.path), str(tmp_path / "a.jpg"), "--task", TASK, "--out", str(out)]
    assert main(both) == 2
    assert "give one clip and nothing else" in capsys.readouterr().err
    assert main(["predict", str(tmp_path), "--task", TASK, "--smooth"]) == 2
    assert "for video clips" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "av", None)
    assert predict(clip.path, out) == 2
    assert "to read video clips, run `pip install -e" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw_clip(tmp_path / "long.mp4", count=1500, faces=(3,), size=(128, 128))
    seen = []
    look = Analyst.look

    def watched(self: Analyst, frames: list[Any]) -> list[Any]:
        seen.append(resident())
        return look(self, frames)

    monkeypatch.setattr(Analyst, "look", watched)
    assert predict(drawn.path, tmp_path / "out") == 0
    assert len(seen) == 94
    assert max(seen[20:]) - seen[20] < 60e6
