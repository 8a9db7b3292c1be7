"""`fra recipes`: what comes with fra, found and described."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from fra.recipe import no_recipe
from fra.shipped import KINDS, SCALES, SMALL, shipped_recipes
from fra.system.printable import did_you_mean
from fra.weights.bundled import ENCODER, TASK, read_manifest, shipped_names

TITLES = {
    "pretrain": "fra pretrain SCALE/NETWORK.METHOD",
    "transfer": "fra transfer SCALE/DATASET.PROTOCOL",
    ENCODER: "bundled encoders (--encoder NAME, --from NAME, fra regions NAME --faces FILE)",
    TASK: "bundled trained tasks (fra predict PHOTO --task NAME)",
}
PLAIN = "(plain)"
"""In place of the last part of a name that has none."""
HINT = (
    f"{SMALL}/NAME is laptop/NAME in seconds, to see that it runs. `fra recipes WORD ...` describes those that contain "
    f"the words, `fra recipes SCALE/NAME` prints one. {PLAIN}: the name ends before the dot."
)


def describe(words: Sequence[str]) -> Iterator[str]:
    """Lines about a recipe, if one has this name (its text), else about everything with all `words` in name or text.

    Without words about everything. ValueError when nothing has them.
    """
    name = " ".join(words)
    everything = {kind: shipped_recipes(kind) for kind in KINDS}
    for recipes in everything.values():
        if name in recipes:
            yield recipes[name].text().removesuffix("\n")
            return
    if "/" in name and " " not in name and name.partition("/")[0] in SCALES:
        raise no_recipe(name, [other for recipes in everything.values() for other in recipes])
    entries = {
        kind: {name: recipe.headline for name, recipe in recipes.items()} for kind, recipes in everything.items()
    }
    entries |= {file: {name: _about(name) for name in shipped_names(file)} for file in (ENCODER, TASK)}
    found = False
    for kind, texts in entries.items():
        fitting = {name: text for name, text in texts.items() if _fits(f"{name} {text}", words)}
        if fitting:
            found = True
            yield TITLES[kind]
            yield from (f"  {name:<42} {text}" for name, text in fitting.items())
    if not found:
        names = [other for texts in entries.values() for other in texts]
        raise ValueError(f"nothing here is called '{name}'{did_you_mean(name, names)} `fra recipes` lists all")


def show_overview() -> None:
    """Print everything on one screen: a row per network and for datasets with the same protocols, without
    descriptions."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)

    def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        console.print(f"[bold]{title}[/bold]")
        table = Table(*columns, box=None, show_header=any(columns), padding=(0, 2, 0, 0), header_style="dim")
        for row in rows:
            table.add_row(*row)
        console.print(table)

    scales = [scale for scale in reversed(SCALES) if scale != SMALL]
    networks: dict[str, list[str]] = defaultdict(list)
    for scale in scales:
        for family, name in _families("pretrain", scale):
            networks[f"{scale}/{family}"].append(name)
    show(TITLES["pretrain"], ("", ""), ((network, " ".join(names)) for network, names in networks.items()))
    datasets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for scale in scales:
        for family, name in _families("transfer", scale):
            datasets[family][scale].append(name)
    used = [scale for scale in scales if any(scale in row for row in datasets.values())]
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for dataset, row in datasets.items():
        alike[tuple(" ".join(row.get(scale, ())) for scale in used)].append(dataset)
    rows = ((", ".join(names), *protocols) for protocols, names in alike.items())
    show(TITLES["transfer"], ("", *(f"{scale}/" for scale in used)), rows)
    for file in (ENCODER, TASK):
        show(TITLES[file], ("", ""), ((name, _about(name)) for name in shipped_names(file)))
    console.print(HINT)


def _families(kind: str, scale: str) -> Iterator[tuple[str, str]]:
    """The recipes of a scale as network or dataset, and the rest of the name."""
    for name in shipped_recipes(kind):
        if name.startswith(f"{scale}/"):
            family, _, rest = name.partition("/")[2].partition(".")
            yield family, rest or PLAIN


def _fits(text: str, words: Sequence[str]) -> bool:
    return all(word.lower() in text.lower() for word in words)


def _about(name: str) -> str:
    """Bundled weights in a few words."""
    manifest = read_manifest(name)
    if TASK in manifest.files:
        form = [f"{manifest.encoder['image_size']} px"]
    else:
        form = [f"{key} {value}" for key, value in manifest.encoder.items() if key.endswith("_stride")]
    return ", ".join((manifest.method, manifest.encoder["name"], *form, manifest.training_data["name"]))
