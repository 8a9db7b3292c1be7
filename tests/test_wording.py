"""What users read: no phrase that native readers stumbled over comes back, and a count of one is in the singular."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fra.crop.run import CropSummary
from fra.data.check import SHOWN as SHOWN_FILES
from fra.data.check import Fault, label_faults, print_verdict
from fra.data.labelled import LabelledFaces
from fra.pools.listing import Account, closing_line
from fra.predict.predictor import Summary
from fra.pretrain.plan import Plan
from fra.pretrain.run import length, load_pretrain_recipe
from fra.regions.run import RegionsSummary, describe
from fra.system.printable import counted, did_you_mean
from fra.tasks.expression import Expression

ROOT = Path(__file__).parents[1]
SHOWN = ("fra/**/*.py", "fra/**/*.j2", "fra/**/*.js", "fra/**/*.yaml", "fra/**/*.md", "docs/**/*.md", "README.md")
ELSEWHERE = {"docs/dev/log.md"}  # a diary: it quotes what things were called

STUMBLED_OVER = (
    r"epochs of \S+ steps of",
    r"own less than 2 %",
    r"FRA works as BYOL",
    r"\bare no clearly\b|[\"']no clearly different",
    r"stayed alive",
    r"not come alive",
    r"\}\} earlier warnings are in",
    r"[Ww]hat it is worth",
    r"<h3>Samples</h3>",
    r"[\"'>](Seen|Good): ",
    r"[Ll]ikeness of (two|the|mask) ",
    r"[Dd]oubt of a pixel",
    r"have not chosen any region|differences that are next to nothing",
    r"[Oo]wner of each pixel",
    r"not what is wanted here",
    r"there is no \{(path|name|what)\}",
    r"there is nothing at",
    r"timm cannot say",
    r"read back it differs",
    r"\} are computed by",
    r"would be too few steps",
    r"[Jj]udge an encoder",
    r"learned tasks? (about|that comes?)",
    r"gone on with",
    r"all that is left is done",
    r"[\"']wrong: ",
    r"% sure\b",
    r"kept nowhere|looked at on this machine",
    r"always stands beside",
    r"put a copy of it back|mend (it|the)\b|take the original",
)

PLURAL_OF_ONE = re.compile(
    r"(?<![\d.,])1 (?:[a-z-]+ )?(?:columns|crops|entries|epochs|faces|files|folders|images|labels|landmarks|lines|"
    r"pairs|passes|photos|pictures|processes|regions|rows|runs|seeds|steps|tensors|values|views|votes|warnings)\b"
)


def shown_files() -> Iterator[Path]:
    for pattern in SHOWN:
        yield from (path for path in sorted(ROOT.glob(pattern)) if str(path.relative_to(ROOT)) not in ELSEWHERE)


@pytest.mark.parametrize("phrase", STUMBLED_OVER)
def test_a_phrase_that_readers_stumbled_over_stays_away(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in shown_files()
        for match in [re.search(phrase, text(path))]
        if match
    ]
    assert not found


TEXTS: dict[Path, str] = {}


def text(path: Path) -> str:
    """Read once for all phrases."""
    if path not in TEXTS:
        TEXTS[path] = path.read_text(encoding="utf-8")
    return TEXTS[path]


# --- counts


def as_crop(_: Path) -> str:
    account = Account(closed=1, closed_folders=[("photos/a", "Permission denied")], hidden=1)
    return str(CropSummary(Path("out/crops"), photos=1, faces=1, skipped={}, reduced=1, account=account))


def as_plan(_: Path) -> str:
    plan = Plan(1, 1, 1.0, 1.0, kept_bytes_per_pair=1.0, pairs_per_second=0.5, steps=1, pairs=1)
    recipe = load_pretrain_recipe("smoke/resnet10_half.byol", ["schedule.epochs=1", "batch_size=32"])
    return "\n".join([length(recipe, 1), *plan.lines()])


def as_regions(_: Path) -> str:
    found = RegionsSummary(
        faces=1,
        regions=1,
        order=[0],
        shares=[1.0],
        map_cosine=0.5,
        entropy=0.0,
        skipped=[("a.jpg", "not an image")],
        not_faces={},
        drawn=1,
        files=["regions.png"],
    )
    return describe(found, Path("out"), Account())


def as_check(folder: Path) -> str:
    faces = LabelledFaces(
        name="rafdb",
        root=folder,
        files=["1.png"],
        splits={name: torch.arange(name == "train") for name in ("train", "val", "test")},
        tasks={"expression": Expression(("glad",))},
        targets={"expression": torch.tensor([0])},
    )
    faults = [*label_faults(faces), Fault("what", "fix", tuple(str(file) for file in range(SHOWN_FILES + 1)))]
    print_verdict("rafdb", folder, faces, faults, all=False)
    return ""


def as_predict(_: Path) -> str:
    summary = Summary({"age": "trained on drawn faces"})
    answers = {"age": {"age": "3-9", "probabilities": {"3-9": 1.0}}}
    summary.add({"photo": "1.png", "faces": [{"score": 0.9, "answers": answers}]})
    summary.show(1.0, None, 1, Account(refused=1, repeated=1))
    return ""


def as_closing_line(_: Path) -> str:
    return closing_line(Account(), used=1, skipped={"unreadable": 0}, noun="face")


SAYS = {
    "crop": (as_crop, "1 photo: 1 used"),
    "crop: faces": (as_crop, "1 face cropped"),
    "crop: scaled down": (as_crop, "1 photo without a face"),
    "pretrain": (as_plan, "1 epoch, 1 step each, batch 32"),
    "plan": (as_plan, "1 (1 pair)"),
    "regions": (as_regions, "1 face, 1 region"),
    "check": (as_check, ": 1 image (train 1"),
    "predict": (as_predict, "1 face in 1 photo"),
    "closing line": (as_closing_line, "1 face: 1 used"),
}


@pytest.mark.parametrize("name", SAYS)
def test_one_of_a_thing_is_counted_in_the_singular(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says, expected = SAYS[name]
    shown = says(tmp_path) + capsys.readouterr().out
    assert expected in shown
    assert not PLURAL_OF_ONE.findall(shown)


def test_the_plural_of_one_is_found() -> None:
    assert PLURAL_OF_ONE.findall("epochs: 1 faces, 1 test images; 11 faces, 1 of 5 images, 0.1 seeds") == [
        "1 faces",
        "1 test images",
    ]


def test_counts_and_hints_read_as_sentences() -> None:
    assert [counted(number, "face") for number in (0, 1, 24_000)] == ["0 faces", "1 face", "24,000 faces"]
    assert [counted(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]
    assert did_you_mean("lptop", ["laptop", "laptop_age"]) == "; did you mean 'laptop' or 'laptop_age'?"
    assert did_you_mean("runs/x", ["laptop"]) == ""
