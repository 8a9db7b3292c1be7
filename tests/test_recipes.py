"""Every shipped recipe is read, typed and built; what is wrong in one is said in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import fra
from fra.data.datasets import DATASETS
from fra.models.encoder import build_backbone
from fra.pretrain.run import METHODS, PretrainRecipe, build_method, faces_of, load_pretrain_recipe
from fra.pretrain.views import ViewMaker
from fra.recipe import plain, recipe_hash, recipe_text
from fra.shipped import shipped_recipes
from fra.training.optimizers import build_optimizer
from fra.transfer.recipes import RECIPES, load_transfer_recipe
from fra.weights.bundled import read_manifest

FILES = sorted(Path(fra.__file__).parent.glob("recipes/*/*/*.yaml"))
PRETRAIN, TRANSFER = list(shipped_recipes("pretrain")), list(shipped_recipes("transfer"))
SMALL = "smoke/resnet10_half.fra"


def test_every_file_has_a_name_of_its_own() -> None:
    assert len(FILES) == len([name for name in PRETRAIN + TRANSFER if not name.startswith("smoke/")]) >= 20
    assert not set(PRETRAIN) & set(TRANSFER)


def test_every_laptop_recipe_has_its_smoke_and_a_name_that_reads_as_it_prints(tmp_path: Path) -> None:
    for kind, load in (("pretrain", load_pretrain_recipe), ("transfer", load_transfer_recipe)):
        shipped = shipped_recipes(kind)
        laptop, smoke = (
            {name.split("/")[1] for name in shipped if name.startswith(f"{s}/")} for s in ("laptop", "smoke")
        )
        assert smoke - laptop == ({"300w.star_original"} if kind == "transfer" else set())
        assert not laptop - smoke
        for name in sorted(smoke):
            file = tmp_path / f"{name}.yaml"
            file.write_text(shipped[f"smoke/{name}"].text())
            assert load(str(file), []) == load(f"smoke/{name}", [])
            assert f"# fra {kind} smoke/{name} --" in file.read_text()


def test_smoke_changes_what_its_table_says_of_the_kind_the_protocol_and_the_name() -> None:
    large, small = (load_transfer_recipe(f"{scale}/affectnet7.finetune") for scale in ("laptop", "smoke"))
    changed = dict(epochs=2, min_steps=0, batch_size=32, image_size=32, fraction=0.002)
    assert small == replace(large, **changed)
    assert load_transfer_recipe("smoke/rafdb.finetune").fraction == 0.05
    large, small = (load_transfer_recipe(f"{scale}/300w.star") for scale in ("laptop", "smoke"))
    assert small.alignment == replace(large.alignment, width=32)  # a section within it: the rest of it stays
    assert load_transfer_recipe("smoke/300w.star_original").optimizer == "adam"  # as the paper's, which laptop has not
    assert load_transfer_recipe("smoke/300w.star", ["epochs=3"]).epochs == 3  # what is set by hand comes last


@pytest.mark.parametrize("name", PRETRAIN)
def test_pretraining_recipe_is_built(name: str) -> None:
    recipe = load_pretrain_recipe(name, [])
    # ResNet-50 with its heads takes seconds to initialise; on the meta device nothing is filled.
    with torch.device("meta"):
        kind = METHODS[recipe.method.name][1]
        backbone = build_backbone(recipe.encoder)
    assert sum(weight.numel() for weight in backbone.parameters()) > 1e5
    assert issubclass(kind, torch.nn.Module)
    if not name.startswith(("paper", "one_gpu")):
        method = build_method(recipe)
        groups = build_optimizer(recipe.optimizer, method).param_groups
        decayed_and_not = 1 if recipe.optimizer.name == "larc" else 2
        apart = sum(rate != 1 for rate in (recipe.optimizer.predictor_rate, recipe.optimizer.discriminator_rate))
        assert len(groups) == decayed_and_not * (1 + apart)
    views = ViewMaker(recipe.views, seed=0).make(
        [torch.zeros(3, 32, 32, dtype=torch.uint8)], torch.tensor([0]), epoch=0
    )
    assert [tuple(view.shape) for view in views] == [(1, 3, size, size) for size in recipe.views.sizes]
    assert len(views) == kind.large_views or kind.multi_crop
    assert 0 <= recipe.schedule.warmup_epochs < recipe.schedule.epochs


@pytest.mark.parametrize("name", TRANSFER)
def test_transfer_recipe_is_built(name: str) -> None:
    recipe = load_transfer_recipe(name)
    assert recipe.dataset in DATASETS
    assert type(recipe) is RECIPES[recipe.protocol]


def test_paper_presets_hold_the_supplements_numbers() -> None:
    recipe = load_pretrain_recipe("paper/resnet50.fra_vggface2_400ep", [])
    assert (recipe.batch_size, recipe.schedule.epochs, recipe.method.decoder.layers) == (1024, 400, 1)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay, recipe.optimizer.momentum) == (
        1.8,
        1.5e-6,
        0.9,
    )
    official = load_pretrain_recipe("paper/resnet50.fra_official", [])
    assert (official.batch_size, official.schedule.epochs, official.method.decoder.layers) == (512, 50, 2)
    assert (official.optimizer.learning_rate, official.optimizer.weight_decay) == (0.9, 1e-6)
    assert official.optimizer.exclude == "official_names"
    # both follow one rule: 0.45 * batch / 256
    assert recipe.optimizer.learning_rate / recipe.batch_size == pytest.approx(0.45 / 256)
    assert official.optimizer.learning_rate / official.batch_size == pytest.approx(0.45 / 256)


@pytest.mark.parametrize(
    ("name", "views", "batch", "peak", "first", "last", "freeze", "queue"),
    [
        ("swav_400", [224] * 2 + [96] * 6, 4096, 4.8, 0.3, 0.0048, 313, 0),
        ("swav_2x224", [224] * 2, 4096, 4.8, 0.3, 0.0048, 313, 0),
        ("swav_bs256", [224] * 2 + [96] * 6, 256, 0.6, None, 0.0006, 5005, 3840),
        ("swav_bulat", [224] * 2 + [96] * 6, 1024, 4.8, 0.3, 0.0048, 313, 0),
    ],
)
def test_swav_presets_hold_the_published_scripts_numbers(
    name: str, views: list[int], batch: int, peak: float, first: float | None, last: float, freeze: int, queue: int
) -> None:
    recipe = load_pretrain_recipe(f"paper/resnet50.{name}", [])
    assert recipe.views.sizes == views
    assert (recipe.batch_size, recipe.optimizer.name, recipe.optimizer.weight_decay) == (batch, "larc", 1e-6)
    assert recipe.method.freeze_steps == freeze
    assert recipe.method.queue == queue
    assert recipe.schedule.first_rate == first
    steps = recipe.schedule.epochs * 100
    rates = [recipe.schedule.rate(recipe.optimizer.learning_rate, step, 100) for step in range(steps)]
    assert max(rates) == pytest.approx(peak)
    assert rates[0] == pytest.approx(peak if first is None else first)
    assert rates[-1] == pytest.approx(last, rel=1e-3)


def test_lewel_and_byol_presets_follow_their_rules_for_the_rate() -> None:
    for name, per_256 in [("lewelb", 0.45), ("lewelb_eman", 0.9), ("lewel_vggface2_50ep", 0.45),
                          ("byol_paper", 0.2), ("byol_100ep", 0.45), ("byol_vggface2_50ep", 0.45)]:  # fmt: skip
        recipe = load_pretrain_recipe(f"paper/resnet50.{name}", [])
        assert recipe.optimizer.learning_rate == pytest.approx(per_256 * recipe.batch_size / 256)
    assert load_pretrain_recipe("paper/resnet50.lewelb_eman", []).method.follow_buffers


def test_lewelb_adapts_the_norms_of_its_heads_as_released_and_its_eman_variant_no_norm() -> None:
    small = ["encoder.name=resnet10_quarter", "method.head.hidden=64", "method.head.out=16"]
    adapted = {}
    for name in ("lewelb", "lewelb_eman"):
        recipe = load_pretrain_recipe(f"paper/resnet50.{name}", small)
        method = build_method(recipe)
        names = {id(weight): key for key, weight in method.named_parameters()}
        kept = build_optimizer(recipe.optimizer, method).param_groups[0]
        adapted[name] = sorted(names[id(weight)] for weight in kept["params"] if weight.dim() == 1)
    assert adapted["lewelb_eman"] == []
    assert len(adapted["lewelb"]) == 4  # of two projectors and two predictors
    assert all(name.endswith(".norm.weight") for name in adapted["lewelb"])


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("smoke/resnet10_half.byol", "views.small=1", "byol needs two large views and no others"),
        ("smoke/resnet10_half.lewel", "views.blur=[1, 1, 1]", "give each one number per view"),
        ("smoke/resnet10_half.swav", "views.small=5", "swav needs at least two large views"),
    ],
)
def test_views_that_a_method_has_no_use_for_are_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(load_pretrain_recipe(name, [override]))


def test_smoke_recipes_take_seconds_whatever_pool_they_get(drawn_faces: Path) -> None:
    smoke = [name for name in PRETRAIN if name.startswith("smoke/")]
    assert len(smoke) >= 4
    assert all(load_pretrain_recipe(name, []).max_faces == 1000 for name in smoke)
    whole, part = (faces_of(load_pretrain_recipe(SMALL, [f"max_faces={n}"]), drawn_faces) for n in ("null", 12))
    assert (len(whole), len(part)) == (40, 12)
    assert [part.path(index) for index in range(12)] == [whole.path(index) for index in range(12)]
    assert torch.equal(part.read(11)[0], whole.read(11)[0])


def test_settings_are_changed_by_dotted_keys_and_typed() -> None:
    recipe = load_pretrain_recipe(SMALL, ["method.regions=16", "views.scale=[0.3, 0.9]", "optimizer.weight_decay=1e-6"])
    assert recipe.method.regions == 16
    assert recipe.views.scale == (0.3, 0.9)
    assert recipe.optimizer.weight_decay == 1e-6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.regoins=16", "no setting named 'method.regoins'; did you mean 'method.regions'"),
        ("batch_sise=16", "no setting named 'batch_sise'; did you mean 'batch_size'"),
        ("batch_size=many", "batch_size"),
        ("method.decoder.content=nothing", "content"),
        ("method.name=dino", "choose one of byol, swav, lewel, fra, fabrec"),
        ("batch_size", "key=value"),
        ("batch_size.x=3", "is a value, not a section"),
        ("views.scale=[0.9, 0.1]", "the smaller first"),
        ("views.scale=[0.9", "the value is not valid YAML"),
        ("batch_size=0", "batch_size is 0: give at least 1"),
        ("accumulate=-1", "accumulate is -1: give at least 1"),
        ("schedule.epochs=0", "epochs is 0: give at least 1"),
        ("views.size=0", "views.size is 0: give a number from 1 to 4096"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ValueError, match="setting|set|choose|smaller|expected|batch_size|give") as caught:
        load_pretrain_recipe(SMALL, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="no recipe named 'nope': `fra recipes` lists them"):
        load_pretrain_recipe("nope", [])
    with pytest.raises(ValueError, match="did you mean 'laptop/rafdb.linear', 'paper/rafdb.linear' or"):
        load_transfer_recipe("rafdb.linear")
    with pytest.raises(ValueError, match="did you mean 'smoke/resnet10_half.fra'"):
        load_pretrain_recipe("smoke/resnet10_hal.fra", [])
    with pytest.raises(ValueError, match="no such recipe file"):
        load_pretrain_recipe("nope.yaml", [])


def test_a_recipe_without_a_required_section_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: {name: byol}\n")
    (tmp_path / "mine").write_text("method: {name: byol}\n")  # the name does not make the recipe
    for name in ("mine.yaml", "mine"):
        with pytest.raises(ValueError, match="encoder is missing"):
            load_pretrain_recipe(str(tmp_path / name), [])
    (tmp_path / "mine.yaml").write_text("method: {name: byol\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_pretrain_recipe(str(tmp_path / "mine.yaml"), [])


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_pretrain_recipe(SMALL, ["seed=3"])
    (tmp_path / "mine.yaml").write_text(recipe_text(recipe))
    again = load_pretrain_recipe(str(tmp_path / "mine.yaml"), [])
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe) != recipe_hash(load_pretrain_recipe(SMALL, []))


def test_every_line_of_a_paper_recipe_cites_its_source() -> None:
    for name, path in shipped_recipes("pretrain").items():
        if name.startswith("paper"):
            lines = [line for line in path.text().splitlines() if ": " in line and "name: " not in line[:8]]
            uncited = [line for line in lines if "#" not in line]
            assert not uncited, (name, uncited)


def test_a_recipe_is_plain_data() -> None:
    recipe = load_pretrain_recipe(SMALL, [])
    assert isinstance(recipe, PretrainRecipe)
    assert yaml.safe_load(recipe_text(recipe)) == plain(recipe, every=True)


def test_settings_that_came_later_are_in_the_hash_only_when_they_are_changed() -> None:
    recipe = load_pretrain_recipe(SMALL, [])
    assert "start" not in plain(recipe)
    assert "backbone_rate" not in plain(recipe)["optimizer"]
    for setting, usual, other in (
        ("start.frozen_stages", 0, 1),
        ("optimizer.backbone_rate", 1.0, 0.5),
        ("optimizer.layer_decay", 1.0, 0.75),
        ("encoder.pooling", "mean", "class_token"),
    ):
        same, changed = (load_pretrain_recipe(SMALL, [f"{setting}={value}"]) for value in (usual, other))
        assert recipe_hash(changed) != recipe_hash(recipe) == recipe_hash(same)


@pytest.mark.parametrize("name", ["laptop", "laptop_byol", "laptop_swav", "laptop_lewel"])
def test_a_recipe_still_has_the_hash_of_its_bundled_weights(name: str) -> None:
    """It stands in results.csv and on the card."""
    manifest = read_manifest(name)
    recipe = load_pretrain_recipe(f"laptop/resnet10_half.{manifest.method}", [])
    assert recipe_hash(recipe) == manifest.recipe_hash
