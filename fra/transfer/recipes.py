"""The recipes of all protocols: which there are, and how one is read."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fra.recipe import LATER, build, hash_of, hints_of, plain, read_recipe
from fra.shipped import shipped_recipes
from fra.transfer.alignment.star import Star, StarRecipe
from fra.transfer.eac import EAC, EACRecipe
from fra.transfer.fewshot.fabrec import FabRec, FabRecRecipe
from fra.transfer.finetune import FineTune, FineTuneRecipe
from fra.transfer.linear import Linear, LinearRecipe
from fra.transfer.protocol import Learner, TransferRecipe

PROTOCOLS: dict[str, tuple[type[TransferRecipe], type[Linear] | type[Learner]]] = {
    "linear": (LinearRecipe, Linear),
    "finetune": (FineTuneRecipe, FineTune),
    "eac": (EACRecipe, EAC),
    "star": (StarRecipe, Star),
    "fabrec": (FabRecRecipe, FabRec),
}
"""Settings of each protocol, and what learns by it: a Learner together with the encoder (`WholeNetwork`)."""
RECIPES = {name: recipe for name, (recipe, _) in PROTOCOLS.items()}


def load_transfer_recipe(name: str, overrides: Sequence[str] = (), *, protocol: str | None = None) -> TransferRecipe:
    """A shipped recipe or a YAML file, with "key=value" overrides. ValueError names what is wrong and what there is.

    With another `protocol` than the recipe's own, the recipe of the same scale, dataset and task that has it is taken
    instead: rates and epochs of one protocol do not fit another.
    """
    if protocol:
        name = _with_protocol(name, protocol)
    return build_transfer_recipe(read_recipe(name, "transfer", overrides), where=name)


def _with_protocol(name: str, protocol: str) -> str:
    """The recipe of the same scale, dataset and task that has the protocol."""
    recipe = load_transfer_recipe(name)
    if recipe.protocol == protocol:
        return name
    wanted = {"dataset": recipe.dataset, "task": recipe.task, "protocol": protocol}
    shipped = shipped_recipes("transfer").items()
    fitting = [other for other, one in shipped if wanted.items() <= one.settings().items()]
    same_scale = [other for other in fitting if other.startswith(name.partition("/")[0] + "/")]
    if not same_scale:
        there_are = f": use {' or '.join(fitting)}" if fitting else f", and {recipe.dataset} has no recipe for it"
        raise ValueError(
            f"{name} is for protocol {recipe.protocol}, whose learning rates and epochs do not fit "
            f"{protocol}{there_are}"
        )
    return same_scale[0]


def build_transfer_recipe(raw: dict[Any, Any], *, where: str) -> TransferRecipe:
    """The recipe of the protocol that plain data names. ValueError for a setting that this protocol does not have."""
    protocol = raw.get("protocol", "linear")
    if not isinstance(protocol, str) or protocol not in RECIPES:
        raise ValueError(f"recipe {where}: unknown protocol '{protocol}'; choose one of {', '.join(RECIPES)}")
    return build(own_settings(raw, protocol, where=where), RECIPES[protocol], where=where, variants={})


def own_settings(raw: Mapping[Any, Any], protocol: str, *, where: str) -> dict[Any, Any]:
    """`raw` without the settings of other protocols that hold what these have by default.

    Files from before protocols had settings of their own hold all of them. ValueError for one that says anything else.
    """
    kept = {}
    for name, value in raw.items():
        elsewhere = [other for other, schema in RECIPES.items() if name in hints_of(schema)]
        if protocol in elsewhere or not elsewhere:
            kept[name] = value
        elif not any(_says(usual_settings(RECIPES[other])[name], value) for other in elsewhere):
            have = f"only {elsewhere[0]} has" if len(elsewhere) == 1 else f"only {', '.join(elsewhere)} have"
            raise ValueError(
                f"recipe {where}: the {protocol} protocol has no setting '{name}', which {have}: leave it out"
            )
    return kept


def usual_settings(schema: type[TransferRecipe]) -> dict[str, Any]:
    """What the settings of a protocol are by default, where they have a default, as plain data."""
    fields = dataclasses.fields(schema)
    usual = {each.name: each.default for each in fields if each.default is not dataclasses.MISSING}
    made = {each.name: each.default_factory() for each in fields if each.default_factory is not dataclasses.MISSING}
    return json.loads(json.dumps(usual | made, default=dataclasses.asdict))


def former_hash(recipe: TransferRecipe) -> str:
    """The `recipe_hash` of before protocols had settings of their own, by which folders may still be named."""
    every = {name: value for schema in RECIPES.values() for name, value in usual_settings(schema).items()}
    later = {each.name for schema in RECIPES.values() for each in dataclasses.fields(schema) if each.metadata == LATER}
    return hash_of({name: value for name, value in every.items() if name not in later} | plain(recipe))


def _says(usual: Any, value: Any) -> bool:
    """Whether a value is the usual one; a section may leave some of it out."""
    if isinstance(usual, dict) and isinstance(value, dict):
        return bool(usual | value == usual)
    return bool(usual == value)
