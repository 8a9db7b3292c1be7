"""What pre-training adds: `fra transfer` repeats an evaluation with random weights, once for the same setting.

The repetition is a run folder of its own in the run's folder. Its numbers are kept in a cache as well, so that other
encoders with the same network on the same labels need none.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fra.data.own import CutPhotos
from fra.files import claim_folder, one_writer, read_json, write_json
from fra.models.encoder import Encoder
from fra.recipe import hash_of
from fra.runtime import Runtime
from fra.system.lock import InUse
from fra.system.printable import printable
from fra.training.devices import begin
from fra.transfer.compare import Comparison, compare, comparison_sentence
from fra.transfer.protocol import TransferRecipe
from fra.transfer.run import NamedEncoder, load_named, transfer
from fra.weights.load import random_weights
from fra.weights.source import EncoderSource

FOLDER = "control"
"""In a run's folder: the same evaluation with random weights."""


@one_writer
def transfer_with_control(
    recipe: TransferRecipe,
    *,
    encoder: str | Path | EncoderSource,
    data: Path | CutPhotos,
    out: Path,
    fraction: float | None = None,
    seeds: int = 1,
    first_seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, Any]:
    """`transfer`, and the same with random weights in place of the encoder's; says in a sentence what they are worth.

    `results.json` gets `control`: the metrics of the same network with random weights. Nothing is repeated for an
    encoder that is random itself, nor with several processes. Raises what `transfer` raises.
    """
    given: dict[str, Any] = dict(data=data, fraction=fraction, seeds=seeds, first_seed=first_seed)
    runtime = replace(runtime, device=begin(runtime))
    source = EncoderSource.parse(encoder)
    named = load_named(source, runtime)
    results = transfer(recipe, encoder=named, out=out, runtime=runtime, **given)
    if source.random or runtime.processes > 1:
        return results
    claim_folder(out, command="transfer", resume=True)
    assert isinstance(named.network, Encoder)
    like = named.network.config
    settings = read_json(out / "settings.json") | {"encoder": asdict(like), "seeds": results["seeds"]}
    kept = cache_folder() / f"{hash_of(settings)}.json"
    metrics = _kept(kept)
    if metrics is None:
        if not runtime.quiet:
            print("now the same with random weights, to see what pre-training adds (--no-control leaves it out)")
        random = NamedEncoder(random_weights(like), str(replace(source, random=True)), "random")
        again = replace(runtime, resume=True)
        try:
            metrics = transfer(recipe, encoder=random, out=out / FOLDER, runtime=again, **given)["metrics"]
        except InUse as error:
            print(f"{error}; what pre-training adds was not measured")
            return results
        _keep(kept, metrics)
    results["control"] = {"encoder": "random", "metrics": metrics}
    write_json(out / "results.json", results, indent=1)
    if not runtime.quiet:
        print(verdict(results))
    return results


def against_control(results: Mapping[str, Any]) -> Comparison:
    """The main metric of `results.json`, its first, against that of its `control`."""
    metric = next(iter(results["metrics"]))
    return compare(
        metric,
        results["encoder"],
        results["metrics"][metric],
        results["control"]["metrics"][metric],
        faces=results["test_images"],
        baseline=results["baseline"]["metrics"].get(metric),
    )


def verdict(results: Mapping[str, Any]) -> str:
    """`Better than random weights? Yes. Accuracy: 17.1 points better than random weights.`"""
    found = against_control(results)
    answer = {"better": "Yes", "worse": "No", "even": "Not clearly"}[found.verdict]
    return f"Better than random weights? {answer}. {comparison_sentence(found)}"


def cache_folder() -> Path:
    """Where the numbers of controls are kept: `fra/controls` in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fra" / "controls"


def _kept(path: Path) -> dict[str, Any] | None:
    """The metrics in a file of the cache; None when there are none that can be used."""
    try:
        return dict(read_json(path)["metrics"])
    except (ValueError, OSError, KeyError):
        return None


def _keep(path: Path, metrics: dict[str, Any]) -> None:
    """Add to the cache, or not where nothing can be written: the numbers are in the run's folder as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"metrics": metrics})
    except OSError as error:
        print(f"not kept for other encoders: {printable(error)}")
