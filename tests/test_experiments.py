"""The study of regions: its variants are recipes that differ as their names say, and when regions are awake.

The comparison of methods: it takes the runs of the supplement's tables, and what it measures itself.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.comparison import comparison
from experiments.judge import Diary, Score, waking_step
from experiments.regions import BASE, SHORT, VARIANTS, study
from fra.pretrain.run import load_pretrain_recipe
from fra.recipe import plain
from fra.reproduce.runs import Place, Pretraining
from fra.reproduce.supplement.scales import SCALES, Scale
from fra.reproduce.supplement.tables import table1
from fra.runtime import Runtime


def settings(name: str) -> dict[str, object]:
    recipe = plain(load_pretrain_recipe(BASE, [*SHORT, *VARIANTS[name]]))
    method = recipe.pop("method")
    nested = {f"{outer}.{key}": value for outer in ("head", "decoder") for key, value in method.pop(outer).items()}
    return method | nested | {f"{outer}.{key}": value for outer in ("encoder", "optimizer") for key, value in
                              recipe[outer].items()}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "faithful"])
def test_a_variant_differs_from_its_reference_in_what_it_names(name: str) -> None:
    kind = name.partition(", ")[0]
    reference = {"alive": "alive", "aligned": "aligned (laptop)"}.get(kind, "faithful") if ", " in name else "faithful"
    one, other = settings(name), settings(reference)
    changed = {key for key in one if one[key] != other[key]}
    several = {
        "alive": 3,
        "queries, orthogonal": 2,
        "aligned (laptop)": 6,
    }
    expected = several.get(name, 1)
    assert len(changed) == expected, changed


def test_faithful_is_the_released_design_of_the_regions() -> None:
    faithful, released = settings("faithful"), load_pretrain_recipe("paper/resnet50.fra_official", []).method
    assert faithful["decoder.content"] == released.decoder.content
    assert faithful["decoder.mask_mlp"] == released.decoder.mask_mlp
    assert faithful["assignment"] == released.assignment
    assert faithful["cluster_weight"] == released.cluster_weight


def log(*shares: float, regions: int = 8) -> list[dict[str, str]]:
    return [{"step": str(10 * i), "assignment": str(share * math.log(regions))} for i, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("shares", "awake"),
    [((1.0, 1.0, 1.0), None), ((1.0, 0.8, 0.5), 10), ((1.0, 0.8, 0.95, 0.7), 30), ((0.5, 0.95), None), ((0.3,), 0)],
)
def test_regions_are_awake_from_the_step_after_which_they_stay_so(shares: tuple[float, ...], awake: int | None) -> None:
    assert waking_step(log(*shares), regions=8) == awake


def test_the_threshold_follows_the_number_of_regions() -> None:
    assert waking_step(log(0.95, regions=8), regions=16) == 0


def test_the_study_has_a_row_and_runs_of_its_own_for_each_seed() -> None:
    table = study(["faithful", "16 regions"], 2, ["schedule.epochs=1"])
    assert [(row.label, row.here) for part in table.parts for row in part.rows] == [
        ("faithful", "seed 0"),
        ("faithful", "seed 1"),
        ("16 regions", "seed 0"),
        ("16 regions", "seed 1"),
    ]
    trained = [run.recipe for run in table.runs() if isinstance(run, Pretraining)]
    assert [(recipe.seed, recipe.schedule.epochs) for recipe in trained] == [(0, 1), (1, 1), (0, 1), (1, 1)]
    assert len(table.runs()) == 4 * 4  # pre-training, regions, pairs, expression


def test_the_comparison_takes_table_1s_runs() -> None:
    compared = {run.name for run in comparison(3).runs()}
    shared = {run.name for run in table1(SCALES["laptop"]).runs()} & compared
    # FRA and SwAV; both and random weights on RAF-DB, on a tenth of 300-W and on all of it
    assert len(shared) == 2 + 3 * 3


def test_the_experiments_measure_what_no_table_has(
    small_scale: Scale, few_faces: Path, real_faces: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, few_faces, real_faces, runtime=Runtime(workers=0, quiet=True))
    encoder = replace(small_scale.encoder("fra"), drawing=None)
    assert Diary(encoder).value(place, "effective_rank") is None
    encoder.work(place)
    rank = Diary(encoder).value(place, "effective_rank")
    assert rank is not None
    assert rank.mean > 1
    assert Diary(encoder).value(place, "waking_step") is None  # a few steps wake nothing
    for run, metric in (
        (Score(encoder, "pairs"), "pair_auc"),
        (Score(encoder, "pairs", random=True), "pair_auc"),
        (Score(encoder, "regions"), "landmark_nme"),
    ):
        assert run.value(place, metric) is None
        run.work(place)
        value = run.value(place, metric)
        assert run.finished(place)
        assert value is not None
        assert (50 if metric == "pair_auc" else 10) < value.mean < 70
    smallest = Score(encoder, "regions").value(place, "smallest_region")
    assert smallest is not None
    assert 0 <= smallest.mean <= 100 / 8
