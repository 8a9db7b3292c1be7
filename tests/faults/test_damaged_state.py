"""Damaged state: every file of finished and interrupted runs, damaged, and every command that reads it.

What counts: no traceback; either one line that names the file and exit status 2, or a result that is as it would have
been. Pictures, crops and the pixels in shards are data, not state, and are left out.
"""

import json
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import FRA_TINY

from fra import cli
from fra.files import (
    MARK,
    DamagedFile,
    append_rows,
    read_arrays,
    read_json,
    read_rows,
    read_tensors,
    read_text,
    reading,
    write_json,
    write_rows,
    write_tensors,
    write_text,
)

PICTURES = {".jpg", ".png", ".gif"}
SMALL = [*FRA_TINY, "encoder.name=resnet10_quarter", "schedule.epochs=2", "max_faces=16", "health_faces=8"]
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]
TRANSFER = ["transfer", "laptop/synthetic_expression"]
SHORT = ["--set", "min_steps=0", "--set", "epochs=2", "--set", "warmup_epochs=0", "--precision", "32"]


# --- damages


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "halved": halve,
    "flipped": flip,
    "replaced by text": lambda path: path.write_text("this is no such file\n"),
    "replaced by a folder": be_a_folder,
}


# --- states


@dataclass(frozen=True)
class State:
    """A folder that a command has left."""

    folder: Path
    words: list[str]
    """The command, without --out."""
    product: Callable[[Path], Any]
    """What going on must give, unless a line says otherwise."""
    read_by: dict[str, list[str]] = field(default_factory=dict)
    """Commands that read the folder, which is RUN in them, by name."""
    unread: tuple[str, ...] = ()
    """Beginnings of the names of files that going on does not read: one damage is enough for them."""


def weights(out: Path) -> Any:
    state = torch.load(out / "last.ckpt", weights_only=True)
    health = out / "health.csv"
    epochs = [row["epoch"] for row in read_rows(health)] if health.exists() else []
    model = {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()}
    return (epochs == ["0", "1", "2"], state["step"], model, read_tensors(out / "encoder.safetensors")[1])


def crops(out: Path) -> Any:
    files = sorted(file for folder in ("crops", "shards") for file in (out / folder).rglob("*.[jt]*"))
    return [(out / "crops.csv").read_bytes(), *((file.name, file.read_bytes()) for file in files)]


def parsed(name: str) -> Callable[[Path], Any]:
    return lambda out: json.loads((out / name).read_text())


def features(out: Path) -> Any:
    return (out / "features.npz").read_bytes()


class Stopped(KeyboardInterrupt):
    """Where an interrupted state ends."""


def stop_after(count: int, patch: pytest.MonkeyPatch, place: str) -> None:
    """Let a function work `count` times, and then no more."""
    module, _, name = place.rpartition(".")
    work = getattr(pkgutil.resolve_name(module), name)
    calls = iter(range(count))

    def stopping(*arguments: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            raise Stopped
        return work(*arguments, **named)

    patch.setattr(place, stopping)


@pytest.fixture(scope="module")
def states(few_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    root = tmp_path_factory.mktemp("states")
    faces = str(few_faces / "images")
    cpu = ["--device", "cpu"]

    def made(name: str, words: list[str], stop: tuple[int, str] | None = None) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                stop_after(stop[0], patch, stop[1])
            assert cli.main([*words, "--out", str(root / name), "--quiet"]) == (130 if stop else 0)
        return root / name

    pretrain = ["pretrain", "smoke/resnet10_half.fra", "--faces", faces, "--precision", "32", "--workers", "0"]
    pretrain += [*cpu, *SETTINGS, "--checkpoint-minutes", "0"]
    trained = made("trained", pretrain)
    readers = {
        "report": ["report", "RUN"],
        "regions": ["regions", "RUN", "--faces", faces, *cpu],
        "transfer": [*TRANSFER, "--encoder", "RUN", "--data", str(few_faces), *cpu, "--no-control"],
        "export": ["export", "RUN", "--format", "official"],
    }
    unread = ("recipe", "encoder", "model", "card", "summary", "epoch", "faces")
    linear = [*TRANSFER, "--encoder", str(trained), "--data", str(few_faces), *cpu]
    tuned = [*linear, "--protocol", "finetune", "--seeds", "2", *SHORT]
    learned = made("learned", linear)
    crop = ["crop", faces, "--detector", "none", "--size", "32", "--workers", "1"]
    shards = [*crop, "--shards", "--shard-faces", "10"]
    predict = ["predict", faces, "--task", str(learned), "--detector", "none", *cpu]
    embed = ["embed", faces, "--encoder", str(trained), "--detector", "none", *cpu]
    report = {"report": ["report", "RUN"]}
    draw = ["regions", str(trained), "--faces", faces, *cpu]
    results, answers = parsed("results.json"), parsed("predictions.json")
    on_step, append = "fra.training.loop.step_seed", "fra.crop.run.Journal.append"
    return {
        "pretrain": State(trained, pretrain, weights, readers, unread),
        "pretrain, interrupted": State(made("training", pretrain, (3, on_step)), pretrain, weights, {}, unread),
        "transfer": State(
            learned, linear, results, {**report, "predict": ["predict", faces, "--task", "RUN", *predict[4:]]}
        ),
        "transfer, interrupted": State(made("tuned", tuned, (9, on_step)), tuned, results),
        "crop": State(
            made("crops", crop), crop, crops, {**report, "plan": [*pretrain[:3], "RUN", *SETTINGS, "--plan"]}
        ),
        "crop, interrupted": State(made("cropping", crop, (1, append)), crop, crops, report),
        "crop into shards": State(made("shards", shards), shards, crops, report),
        "crop into shards, interrupted": State(made("sharding", shards, (2, append)), shards, crops),
        "predict": State(made("answers", predict), predict, answers),
        "predict, interrupted": State(made("asking", predict, (9, "fra.predict.predictor.short")), predict, answers),
        "embed": State(made("features", embed), embed, features),
        "embed, interrupted": State(made("embedding", embed, (1, "fra.embed.store.Journal.append")), embed, features),
        "regions": State(made("drawn", draw), draw, parsed("regions.json"), report),
    }


NAMES = [
    "pretrain",
    "pretrain, interrupted",
    "transfer",
    "transfer, interrupted",
    "crop",
    "crop, interrupted",
    "crop into shards",
    "crop into shards, interrupted",
    "predict",
    "predict, interrupted",
    "embed",
    "embed, interrupted",
    "regions",
]


READ = {
    "transfer": ("encoder", "recipe", ".fra"),
    "export": ("encoder", "model", "recipe", ".fra"),
    "regions": ("model", "encoder", "recipe", "faces", "epoch", ".fra"),
    "predict": ("task", "results", "recipe", ".fra"),
}
"""Beginnings of the names of files that a reader may read, where these are not all."""


def files_of(folder: Path) -> Iterator[str]:
    """The files that are tried."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix not in PICTURES and file.name not in ("epoch_0001.npz", "epoch_0002.npz"):
            yield file.relative_to(folder).as_posix()


def tries(name: str, place: int) -> list[str]:
    """The damage of a file, another one for each place in a folder; with FRA_EVERY_DAMAGE=1 all of them."""
    known = [damage for damage in DAMAGES if not name.endswith(".tar") or damage != "flipped"]  # its pixels are data
    return known if os.environ.get("FRA_EVERY_DAMAGE") else [known[place % len(known)]]


def copy_of(folder: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


@pytest.fixture
def fra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], tuple[int, str]]:
    """A command's exit status, and what it said on stderr."""
    monkeypatch.setattr("fra.report.run.embed", lambda picture, **size: "data:,")  # encoding takes a second
    monkeypatch.setattr("fra.regions.draw.timeline_frames", lambda snapshots, **how: [])
    monkeypatch.setattr("fra.regions.draw.write_timeline", lambda path, snapshots, **how: None)

    def call(words: list[str]) -> tuple[int, str]:
        capsys.readouterr()
        status = cli.main([*words, "--quiet"])
        return status, capsys.readouterr().err

    return call


def verdict(status: int, said: str, file: str, *, unaffected: bool) -> str:
    """What is wrong with an outcome, or nothing."""
    lines = [line for line in said.splitlines() if line.startswith("fra: ")]
    name = Path(file).name
    if status == 2:
        return "" if len(lines) == 1 and name in lines[0] else f"says {said!r}"
    if status != 0:
        return f"ends with {status}: {said!r}"
    return "" if unaffected or any(name in line for line in lines) else f"another result, and says {said!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_damaged_state(
    name: str, states: dict[str, State], tmp_path: Path, fra: Callable[[list[str]], tuple[int, str]]
) -> None:
    state = states[name]
    whole = copy_of(state.folder, tmp_path / "whole")
    assert fra([*state.words, "--resume", "--out", str(whole)])[0] == 0
    product = state.product(whole)
    wrong = []
    for place, file in enumerate(files_of(state.folder)):
        unread = Path(file).name.startswith(state.unread or ("-",))
        for damage in ["flipped"] if unread else tries(file, place):
            out = copy_of(state.folder, tmp_path / "damaged")
            DAMAGES[damage](out / file)
            status, said = fra([*state.words, "--resume", "--out", str(out)])
            unaffected = status == 0 and state.product(out) == product
            if problem := verdict(status, said, file, unaffected=unaffected):
                wrong.append(f"{file} {damage}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name in ("pretrain", "transfer", "regions") or "crop" in name]
)
def test_reading_a_damaged_state(
    name: str, states: dict[str, State], tmp_path: Path, fra: Callable[[list[str]], tuple[int, str]]
) -> None:
    state = states[name]
    wrong = []
    for number, (reader, words) in enumerate(state.read_by.items(), start=1):
        product = None
        files = [file for file in files_of(state.folder) if Path(file).name.startswith(READ.get(reader, ""))]
        for place, file in enumerate([None, *files]):
            for damage in tries(file, place + number) if file else [""]:
                run, out = copy_of(state.folder, tmp_path / "run"), tmp_path / "out"
                shutil.rmtree(out, ignore_errors=True)
                if file:
                    DAMAGES[damage](run / file)
                more = [] if "--plan" in words else ["--out", str(out)]
                status, said = fra([str(run) if word == "RUN" else word for word in words] + more)
                found = told(out)
                if file is None:
                    assert status == 0, said
                    product = found
                # A report of what is there is right when something is not there.
                unaffected = found == product or (reader == "report" and damage == "deleted")
                if reader == "report" and damage == "deleted" and "no run found" in said:
                    continue  # so is this
                if file and (problem := verdict(status, said, file, unaffected=unaffected)):
                    wrong.append(f"{reader}: {file} {damage}: {problem}")
    assert not wrong, "\n".join(wrong)


def told(out: Path) -> Any:
    """What a reader has made of a run, without times."""
    names = ("report.html", "regions.json", "results.json", "predictions.json", "run.pth.tar")
    return {name: (out / name).read_bytes() for name in names if (out / name).is_file()}


# --- each kind of file by itself


def test_every_flipped_bit_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    """Each byte in turn: the file is damaged, or says what it said."""
    rows = [{"step": 1, "loss": "0.5", "note": 'a "b", c'}, {"step": 2, "loss": "0.25", "note": ""}]
    kinds: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
        "a.json": (lambda path: write_json(path, {"name": "é", "numbers": [1, 2.5], "deep": {"er": None}}), read_json),
        "a.csv": (lambda path: write_rows(path, rows, checked=True), read_rows),
        "a.yaml": (lambda path: write_text(path, "size: 3\nname: x\n"), read_text),
        "a.md": (lambda path: write_text(path, "# Title\n\n| a |\n"), read_text),
        "a.npz": (lambda path: np.savez_compressed(path, values=np.arange(9)), values),
        "a.safetensors": (lambda path: write_tensors(path, {"w": torch.arange(9.0)}, {"kind": "x"}), tensors),
    }
    for name, (write, read) in kinds.items():
        path = tmp_path / name
        write(path)
        true, content = read(path), path.read_bytes()
        silent = []
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with suppress(DamagedFile):
                silent += [place] if read(path) != true else []
        # Where it is no longer seen that there is a checksum; what it is of is whole then.
        start = content.find(b"crc32")
        start -= {".md": 5, ".yaml": 2}.get(path.suffix, 0)
        assert set(silent) <= set(range(start, content.find(b"crc32") + 6)), (name, silent)


def values(path: Path) -> list[int]:
    with reading(path):
        return read_arrays(path)["values"].tolist()


def tensors(path: Path) -> tuple[list[float], dict[str, str]]:
    found, notes = read_tensors(path)
    return found["w"].tolist(), notes


def test_files_without_a_checksum_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"seconds": 3}')
    assert read_json(tmp_path / "a.json") == {"seconds": 3}
    (tmp_path / "a.csv").write_text("step,loss\n1,0.5\n2,0.2")
    assert read_rows(tmp_path / "a.csv")[1] == {"step": "2", "loss": "0.2"}
    append_rows(tmp_path / "b.csv", [{"step": 1}])
    (tmp_path / "a.yaml").write_text("size: 3\n")
    assert read_text(tmp_path / "a.yaml") == "size: 3\n"


def test_a_torn_last_line_is_dropped_and_a_torn_middle_is_not(tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    for step in (1, 2, 3):
        append_rows(table, [{"step": step, "loss": 0.5}])
    content = table.read_bytes()
    for cut in range(content.rindex(b"3,") + 1, len(content)):
        table.write_bytes(content[:cut])
        assert [row["step"] for row in read_rows(table)] == ["1", "2"]
    table.write_bytes(content.replace(b"2,0.5", b"2,0.6"))
    with pytest.raises(
        DamagedFile, match=r"log.csv is damaged \(the checksum of row 2 does not match\): restore it from a backup"
    ):
        read_rows(table)


def test_what_was_changed_by_hand_may_be_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"encoder": "mine"})
    changed = json.loads((tmp_path / "results.json").read_text()) | {"encoder": "yours"}
    (tmp_path / "results.json").write_text(json.dumps(changed))
    with pytest.raises(DamagedFile, match="its checksum does not match"):
        read_json(tmp_path / "results.json")
    del changed["crc32"]
    (tmp_path / "results.json").write_text(json.dumps(changed))
    assert read_json(tmp_path / "results.json") == {"encoder": "yours"}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_what_reproduce_keeps_beside_its_runs(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fra.engine import cost_of, costed
    from fra.reproduce.runs import Drawing, Place, Timing

    place, run = Place(tmp_path, tmp_path, tmp_path), Drawing(10)
    with costed(run, place):
        run.folder(place).mkdir(parents=True)
    assert cost_of(run, place)["seconds"] >= 0
    cost = run.folder(place) / "cost.json"
    DAMAGES[damage](cost)
    if damage == "deleted":
        assert cost_of(run, place) is None
    else:
        with pytest.raises(DamagedFile, match=r"cost.json .*: remove it: the table then leaves out the time"):
            cost_of(run, place)
    timing = Timing(())
    file = timing.folder(place) / "timing.json"
    write_json(file, {"with_loading": {"fra": {"ratio": 2.0, "low": 1.0, "high": 3.0}}})
    assert timing.value(place, "fra.with_loading").mean == 2
    DAMAGES[damage](file)
    if damage == "deleted":
        assert timing.value(place, "fra.with_loading") is None
    else:
        with pytest.raises(DamagedFile, match=r"timing.json .*: remove it: the same command makes it again"):
            timing.value(place, "fra.with_loading")


def test_a_second_last_checkpoint_is_whole_and_older(states: dict[str, State]) -> None:
    for name in ("pretrain", "pretrain, interrupted"):
        steps = [
            torch.load(states[name].folder / file, weights_only=True)["step"] for file in ("last.ckpt", "previous.ckpt")
        ]
        assert steps[0] > steps[1]
        assert (states[name].folder / MARK).is_file()


def test_both_checkpoints_damaged_is_one_line_that_names_both(
    states: dict[str, State], tmp_path: Path, fra: Callable[[list[str]], tuple[int, str]]
) -> None:
    out = copy_of(states["pretrain, interrupted"].folder, tmp_path / "out")
    for name in ("last.ckpt", "previous.ckpt"):
        flip(out / name)
    status, said = fra([*states["pretrain, interrupted"].words, "--resume", "--out", str(out)])
    assert status == 2
    assert "last.ckpt is damaged" in said
    assert "previous.ckpt is damaged" in said
    assert "start again with another --out" in said
