"""What `fra compare` is asked: which labelled faces, encoders, numbers of labels, protocols and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fra.data.datasets import ALIASES, DATASETS
from fra.data.labelled import LabelledFaces
from fra.models.encoder import Encoder, EncoderConfig
from fra.runtime import Runtime
from fra.shipped import shipped_recipes
from fra.system.printable import counted, did_you_mean
from fra.tasks.expression import Expression
from fra.tasks.task import Task
from fra.transfer.protocol import TransferRecipe
from fra.transfer.recipes import PROTOCOLS, load_transfer_recipe
from fra.transfer.run import read_dataset
from fra.weights.load import encoder_fingerprint, load_encoder, random_weights
from fra.weights.source import RANDOM, EncoderSource

ALL = "all"
SCALE = "laptop"
"""Of the recipes, where `--dataset` names none."""


@dataclass(frozen=True)
class Asked:
    """The words of the command line that say what is compared."""

    encoders: tuple[str, ...]
    names: tuple[str, ...] = ()
    """What tables call the encoders, in their order; empty for their usual labels."""
    labels: str = "20,100,500,all"
    """Numbers of labelled training faces, with commas; `all` for every one there is."""
    protocols: str = "linear"
    """With commas."""
    seeds: int = 3
    dataset: str | None = None
    """A dataset, a recipe, or the part of a recipe's name before its protocol; None to recognise the folder."""
    overrides: tuple[str, ...] = ()
    """`key=value`, for the recipes of all protocols."""


@dataclass(frozen=True)
class Contestant:
    """An encoder that is compared."""

    name: str
    source: EncoderSource
    like: EncoderConfig
    """Its network."""
    fingerprint: str

    def load(self, runtime: Runtime) -> Encoder:
        """The network, on the runtime's device, in eval mode."""
        if self.source.random:
            return random_weights(self.like).to(runtime.device).eval()
        return load_encoder(self.source, device=runtime.device, quiet=True)


@dataclass(frozen=True)
class Question:
    """What was asked, read and checked."""

    faces: LabelledFaces
    task: Task
    word: str
    """The task's name in the dataset."""
    recipes: dict[str, TransferRecipe]
    """By protocol, for all labels."""
    labels: tuple[int, ...]
    """Rising."""
    seeds: int
    notes: tuple[str, ...] = ()
    """What was changed of what was asked, a sentence each."""

    @property
    def train_images(self) -> int:
        return len(self.faces.splits["train"])


def contestants(asked: Asked, runtime: Runtime) -> list[Contestant]:
    """The encoders, each loaded once to see that it can be.

    A bare `random` gets the network of the first encoder that is not random, so that the two differ in weights alone.
    Raises ValueError for one that is unknown, or there twice, and for names that do not fit.
    """
    if asked.names and len(asked.names) != len(asked.encoders):
        raise ValueError(f"--names has {len(asked.names)} for {counted(len(asked.encoders), 'encoder')}: give one each")
    sources = [EncoderSource.parse(text) for text in asked.encoders]
    trained = next((source for source in sources if not source.random), None)
    labels = asked.names or tuple(source.label for source in sources)
    found: list[Contestant] = []
    for text, source, label in zip(asked.encoders, sources, labels, strict=True):
        if text == RANDOM and trained:
            source = replace(trained, random=True)
            like = load_encoder(trained, quiet=True).config
            network = random_weights(like)
        else:
            network = load_encoder(source, quiet=runtime.quiet)
            like = network.config
        name = label if asked.names or labels.count(label) == 1 else text
        found.append(Contestant(name, source, like, encoder_fingerprint(network)))
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.fingerprint == other.fingerprint:
                texts = " and ".join(dict.fromkeys((asked.encoders[found.index(other)], asked.encoders[number])))
                raise ValueError(f"--encoders has the same weights twice ({texts}): leave one out")
            if one.name == other.name:
                raise ValueError(f"two encoders are called '{one.name}': tell them apart by --names")
    return found


def question(asked: Asked, data: Path) -> Question:
    """Read the faces, and check what is asked of them. Raises ValueError naming what is wrong."""
    protocols = _protocols(asked.protocols)
    wanted = _labels(asked.labels)
    if any(override.partition("=")[0].strip() == "fraction" for override in asked.overrides):
        raise ValueError("--set fraction is what --labels decides: leave it out")
    base = base_recipe(data, asked.dataset)
    recipes = {protocol: load_transfer_recipe(base, asked.overrides, protocol=protocol) for protocol in protocols}
    first = next(iter(recipes.values()))
    faces, task = read_dataset(first, data)
    word = faces.word(first.task)
    labels, notes = _fitting(wanted, faces, task)
    return Question(
        faces,
        task,
        word,
        {protocol: replace(recipe, task=word) for protocol, recipe in recipes.items()},
        labels,
        asked.seeds,
        notes,
    )


def _protocols(text: str) -> list[str]:
    protocols = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not protocols:
        raise ValueError(f"--protocols is empty: give some of {', '.join(PROTOCOLS)}, with commas")
    for word in protocols:
        if word not in PROTOCOLS:
            raise ValueError(
                f"no protocol named '{word}'{did_you_mean(word, PROTOCOLS)} (known: {', '.join(PROTOCOLS)})"
            )
    return protocols


def _labels(text: str) -> list[int | None]:
    """Numbers of labels; None for all."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError("--labels is empty: give numbers with commas, such as 20,100,500,all")
    found: list[int | None] = []
    for word in words:
        if word == ALL:
            found.append(None)
        elif word.isdecimal() and int(word) > 0:
            found.append(int(word))
        else:
            raise ValueError(f"--labels has '{word}': give numbers above 0 with commas, and `all` for every label")
    return found


def _fitting(wanted: Sequence[int | None], faces: LabelledFaces, task: Task) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers of labels that this dataset can give, rising, and what was changed."""
    count = len(faces.splits["train"])
    labels = tuple(sorted({count if number is None else min(number, count) for number in wanted}))
    if isinstance(task, Expression) and labels[0] < len(task.labels):
        raise ValueError(
            f"--labels has {labels[0]}, fewer than the {len(task.labels)} classes of {faces.title or faces.name}: "
            f"give at least {len(task.labels)}"
        )
    more = [f"{number:,}" for number in wanted if number is not None and number > count]
    if not more:
        return labels, ()
    return labels, (f"--labels {', '.join(more)}: there are {counted(count, 'training image')}, so all are used",)


def base_recipe(folder: Path, word: str | None) -> str:
    """A transfer recipe for the faces in a folder, of any protocol.

    `word` is a dataset, a recipe or a recipe's name without its protocol; None to recognise the folder. Raises
    ValueError when there is none, or when it does not say which of several tasks is meant.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the dataset's folder as --data")
    if word and (word in shipped_recipes("transfer") or word.endswith((".yaml", ".yml"))):
        return word
    scale, slash, name = (word or "").rpartition("/")
    name = ALIASES.get(name, name) if word else recognise(folder)
    stems = {recipe.partition(".")[0]: recipe for recipe in shipped_recipes("transfer")}
    scale = scale if slash else SCALE
    if f"{scale}/{name}" in stems:
        return stems[f"{scale}/{name}"]
    of_scale = {stem.partition("/")[2]: recipe for stem, recipe in stems.items() if stem.startswith(f"{scale}/")}
    several = [stem for stem in of_scale if stem.startswith(f"{name}_")]
    if several:
        raise ValueError(f"{name} has several tasks: add --dataset {' or '.join(several)}")
    raise ValueError(f"no dataset named '{word}'{did_you_mean(name, of_scale)} (known: {', '.join(of_scale)})")


NOT_THERE = "shows what is read"
"""In what readers of one's own labels say of a folder that holds none of theirs."""


def recognise(folder: Path) -> str:
    """The dataset whose layout a folder has, published ones first. Raises ValueError when there is none, or several."""
    fitting: list[str] = []
    why = ""
    faults: list[Exception] = []  # of one's own labels that are there and wrong
    # Of people's own the one with the fewest demands comes last: any folders can be classes.
    for name, dataset in sorted(DATASETS.items(), key=lambda item: (item[1].own, item[0] == "folder")):
        if dataset.own and fitting:
            break
        try:
            dataset.read(folder)
        except (ValueError, OSError) as error:
            why = f" ({error})" if name == "folder" else why
            split = (folder / "train").is_dir() or (folder / "test").is_dir()
            if dataset.own and NOT_THERE not in str(error) and (name != "folder" or split):
                faults.append(error)
            continue
        fitting.append(name)
    if "synthetic" in fitting:  # drawn faces have the layouts of several others as well
        return "synthetic"
    if len(fitting) > 1:
        raise ValueError(f"{folder} can be read as {' and as '.join(fitting)}: say which by --dataset NAME")
    if not fitting and faults:
        raise faults[0]
    if not fitting:
        raise ValueError(
            f"{folder} has no layout that is known; as one folder per class it cannot be read either{why}: say what it "
            "is by --dataset NAME, and see `fra data layout NAME`"
        )
    return fitting[0]
