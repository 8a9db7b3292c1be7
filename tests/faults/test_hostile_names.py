"""Hostile names: they are printed without control characters, kept as they are, and no spreadsheet runs them."""

import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_tasks import EXPRESSION, plant
from tiny_runs import FRA_TINY, run

from fra import cli
from fra.crop.cut import CropSettings
from fra.crop.journal import read_journal
from fra.crop.run import crop
from fra.drawing.drawn_face import draw_face
from fra.faces.image import UnreadableImage, write_image
from fra.files import append_rows, read_rows, write_rows
from fra.models.encoder import Encoder, EncoderConfig
from fra.pools.listing import Account
from fra.runtime import Runtime
from fra.system.cells import guarded, read_cells, unguarded, write_cells
from fra.system.printable import counted, printable
from fra.weights.load import encoder_metadata, save_weights

ROOT = Path(__file__).parents[2]
NAMES = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "line\nbreak", "car\rriage", "tab\tbed", "back\x08space", "c1\x9b5m",
    "turn\u202egpj", "mark\u200f", "isolate\u2066", "line\u2028end", "\x7f", os.fsdecode(b"latin\xe9"),
    os.fsdecode(b"\xff\xfe"), "=HYPERLINK(0)", "+1", "-2+3", "@SUM(A1)", "\t=1", "'=1", "[bold]rich",
    "été 顔 👩‍🚀", " blank ", '"quoted"', "semi;colon,comma",
]  # fmt: skip


def named(folder: Path, names: list[str] = NAMES, *, broken: bool = False) -> list[str]:
    """Drawn faces with these names, or files that are no pictures; the names that the file system took."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, name in enumerate(names):
        path = os.path.join(folder, f"{name}.jpg" if broken else f"{name}.png")
        try:
            if broken:
                Path(path).write_text("no picture")
            else:
                write_image(path, draw_face(number, size=40).image)
        except OSError:  # macOS takes no bytes that are not UTF-8
            continue
        made.append(os.path.basename(path))
    return made


def is_harmless(text: str) -> bool:
    """Nothing but line ends steers the terminal, and everything can be written in UTF-8."""
    text.encode("utf-8")
    return not any(
        unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") and sign not in "\n\u200d" for sign in text
    )


# --- what is shown


@pytest.mark.parametrize("text, shown", [
    ("plain é 顔 👩‍🚀.jpg", "plain é 顔 👩‍🚀.jpg"),
    ("\x1b[2Ja\n\tb\r", r"\x1b[2Ja\n\tb\r"),
    ("a\u202eb\u2066c\u200ed\u061ce\ufeff", r"a\u202eb\u2066c\u200ed\u061ce\ufeff"),
    ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
    (os.fsdecode(b"a\xe9\xff"), r"a\xe9\xff"),
    ("a\ud800", r"a\ud800"),
    ("Screenshot 1.23\u202fPM", "Screenshot 1.23\u202fPM"),
])  # fmt: skip
def test_what_steers_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(Path(f"/{text}")) == f"/{shown}"


@given(st.text())
def test_no_text_at_all_harms(text: str) -> None:
    assert is_harmless(printable(text).replace("\u200c", ""))


def test_things_are_counted_in_english() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2, 24_000)] == [
        "0 photos", "1 photo", "2 photos", "24,000 photos",
    ]  # fmt: skip


def test_errors_and_accounts_show_names_so() -> None:
    account = Account(ignored=Counter({f".{NAMES[0]}": 1, f".{os.fsdecode(bytes([233]))}": 2}))
    account.close(NAMES[7], OSError(13, "Permission denied"))
    for text in ("; ".join(account.parts()), str(UnreadableImage(NAMES[2], "no"))):
        assert is_harmless(text)
        assert "\n" not in text


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of FRA on hostile names, and a learned task."""
    folder = tmp_path_factory.mktemp("names")
    named(folder / "faces")
    named(folder / "faces", ["bad\x1b[1m\nname", os.fsdecode(b"bad\xe9")], broken=True)
    run(folder / "faces", folder / "fra", "schedule.epochs=1", "schedule.warmup_epochs=0.5")
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32))
    save_weights(folder / "encoder.safetensors", network.backbone, encoder_metadata(network))
    plant(folder / "task", EXPRESSION, "synthetic", folder / "encoder.safetensors")
    return folder


def commands(learned: Path, out: Path) -> dict[str, list[str]]:
    faces = str(learned / "faces")
    settings = [word for setting in [*FRA_TINY, "schedule.epochs=1"] for word in ("--set", setting)]
    return {
        "crop": ["crop", faces, "--out", f"{out}/crop", "--detector", "none", "--workers", "1"],
        "shards": ["crop", faces, "--out", f"{out}/shards", "--detector", "none", "--workers", "1", "--shards"],
        "predict": [
            *("predict", faces, "--out", f"{out}/predict", "--detector", "none", "--device", "cpu"),
            *("--task", str(learned / "task")),
        ],
        "embed": ["embed", faces, "--out", f"{out}/embed", "--detector", "none", "--device", "cpu"],
        "regions": ["regions", str(learned / "fra"), "--faces", faces, "--out", f"{out}/regions", "--device", "cpu"],
        "pretrain": [
            *("pretrain", "smoke/resnet10_half.fra", "--faces", faces, "--out", f"{out}/pretrain", "--workers", "0"),
            *("--device", "cpu", *settings),
        ],
    }


@pytest.fixture(scope="module")
def ran(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[bytes]"]:
    """All commands in one process without a locale (LC_ALL=POSIX), and where their outputs are."""
    out = tmp_path_factory.mktemp("out")
    script = "import sys, json\nfrom fra import cli\nprint([cli.main(a) for a in json.loads(sys.argv[1])])"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(list(commands(learned, out).values()))],
        env={**kept, "LC_ALL": "POSIX", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    return out, done


def test_without_a_locale_every_command_works(ran: tuple[Path, "subprocess.CompletedProcess[bytes]"]) -> None:
    _, done = ran
    ends = done.stdout.decode().splitlines()[-1:]
    assert ends == ["[0, 0, 0, 0, 0, 0]"], done.stderr.decode(errors="replace")[-2000:]


def test_commands_print_nothing_that_steers_a_terminal(
    ran: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    _, done = ran
    for printed in (done.stdout.decode(), done.stderr.decode()):
        assert is_harmless(printed.replace("\r", ""))
    assert r"bad\x1b[1m\nname.jpg" in done.stderr.decode()


@pytest.mark.parametrize("name", [NAMES[0] + NAMES[2] + NAMES[7], os.fsdecode(b"gone\xe9")])
def test_errors_of_commands_are_one_harmless_line(
    name: str, learned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named(tmp_path / "bad", [name], broken=True)
    for given_ in (tmp_path / name, tmp_path / "bad", tmp_path / "bad" / f"{name}.jpg"):
        for command in ("crop", "predict", "embed", "regions", "pretrain"):
            usual, faces = commands(learned, tmp_path)[command], str(learned / "faces")
            arguments = [str(given_) if word == faces else word for word in usual]
            assert cli.main(arguments) == 2
            error = capfd.readouterr().err
            assert is_harmless(error)
            assert all(line.startswith("fra: ") for line in error.splitlines())


# --- what is kept


def test_tables_and_json_keep_names_as_they_are(
    learned: Path, ran: tuple[Path, "subprocess.CompletedProcess[bytes]"]
) -> None:
    """In crops.csv read back by ourselves, in predictions.json, regions.json and heatmaps.npz."""
    out, _ = ran
    made = {os.fsdecode(file) for file in os.listdir(os.fsencode(learned / "faces"))}
    assert {row[0] for row in read_journal(out / "crop")} == made
    answers = json.loads((out / "predict/predictions.json").read_text(encoding="utf-8"))
    assert {photo["photo"] for photo in answers["photos"]} == made
    with np.load(out / "embed/features.npz") as arrays:
        embedded = arrays["files"].tolist()
    with open(out / "embed/skipped.csv", newline="", encoding="utf-8", errors="surrogateescape") as table:
        left_out = [row["photo"] for row in csv.DictReader(table)]
    assert {*embedded, *left_out} == made
    with np.load(out / "regions/heatmaps.npz") as arrays:
        seen = {os.path.basename(name) for name in arrays["files"].tolist()}
    skipped = {os.path.basename(name) for name, _ in json.loads((out / "regions/regions.json").read_text())["skipped"]}
    assert seen | skipped == made
    unreadable = (learned / "fra/unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert sum(r"bad\x1b[1m\nname.jpg" in line for line in unreadable) == 1


def test_resuming_among_hostile_names_changes_nothing(tmp_path: Path) -> None:
    named(tmp_path / "photos")
    settings, alone = CropSettings(detector="none", size=16), Runtime(workers=1, quiet=True)
    crop(tmp_path / "photos", tmp_path / "out", settings, runtime=alone)
    before = (tmp_path / "out/crops.csv").read_bytes()
    crop(tmp_path / "photos", tmp_path / "out", settings, runtime=replace(alone, resume=True))
    assert (tmp_path / "out/crops.csv").read_bytes() == before


# --- tables that spreadsheets open


@pytest.mark.parametrize("cell, written", [
    ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"),
    ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("'=1", "''=1"), ("''=1", "'''=1"), ("＝1", "'＝1"),
    ("-0.5", "-0.5"), ("+3", "+3"), ("-1e-05", "-1e-05"), ("-.5", "-.5"), ("-inf", "-inf"), ("-1.5E+3", "-1.5E+3"),
    ("--1", "'--1"), ("-1_0", "'-1_0"), ("-", "'-"), ("it's", "it's"), ("'quoted'", "'quoted'"), ("a=b", "a=b"),
    ("", ""),
])  # fmt: skip
def test_a_formula_becomes_text_and_a_number_stays_one(cell: str, written: str) -> None:
    assert guarded(cell) == written
    assert unguarded(written) == cell


def test_numbers_are_written_as_numbers() -> None:
    stream = io.StringIO()
    write_cells(stream, [[-0.5, -3, None, True, float("-inf")]])
    assert stream.getvalue() == "-0.5,-3,,True,-inf\n"


@settings(deadline=None)
@given(st.lists(st.lists(st.text(alphabet=st.sampled_from("=+-@'\t\r\n\",;a1.e ＝\ud800")), min_size=2, max_size=3)))
def test_every_table_is_read_back_unchanged(rows: list[list[str]]) -> None:
    stream = io.StringIO(newline="")
    write_cells(stream, rows)
    stream.seek(0)
    assert list(read_cells(stream)) == rows
    for row in csv.reader(io.StringIO(stream.getvalue(), newline="")):
        for cell in row:  # no cell of the file itself begins as a formula does, unless it is a number
            assert cell[:1] not in ("=", "@", "\t", "\r", "\n", "＝") or not cell
            assert cell[:1] not in ("+", "-") or float(cell) is not None


def test_the_tables_of_runs_are_safe_and_read_back(tmp_path: Path) -> None:
    rows = [{"file": name, "x": "-0.5", "=label": 1} for name in NAMES]
    write_rows(tmp_path / "a.csv", rows)
    append_rows(tmp_path / "b.csv", rows[:3])
    append_rows(tmp_path / "b.csv", rows[3:])
    for name in ("a.csv", "b.csv"):
        found = read_rows(tmp_path / name)
        assert [row["file"] for row in found] == NAMES
        assert {(row["x"], row["=label"]) for row in found} == {("-0.5", "1")}
        raw = (tmp_path / name).read_bytes()
        assert b"\n=" not in raw
        assert b",=" not in raw


def test_crops_csv_is_safe_in_a_spreadsheet(tmp_path: Path) -> None:
    made = named(tmp_path / "photos", ["=cmd", "+x", "-x", "@x", "-1"])
    crop(tmp_path / "photos", tmp_path / "out", CropSettings(detector="none"), runtime=Runtime(workers=1, quiet=True))
    with open(tmp_path / "out/crops.csv", newline="") as stream:
        cells = [row["photo"] for row in csv.DictReader(stream)]
    assert sorted(cells) == sorted(f"'{name}" for name in made)
    assert sorted(row[0] for row in read_journal(tmp_path / "out")) == sorted(made)
