"""What the supplement's experiments are made of at each scale: encoders, datasets and what stands in for them."""

from dataclasses import dataclass

from fra.pretrain.run import load_pretrain_recipe
from fra.reproduce.runs import Drawing, Pretraining, Transfer

DRAWN_FACES = 400


@dataclass(frozen=True)
class Data:
    """What is used in place of one of the paper's labelled datasets."""

    name: str
    recipe: str
    """With all labels."""
    few: str | None = None
    """With a part of them, where that takes another."""
    fabrec: str | None = None
    """By 3FabRec's protocol."""


@dataclass(frozen=True)
class Scale:
    """One of `--scale`."""

    name: str
    faces: str
    """On what encoders are pre-trained; the paper: VGGFace2."""
    methods: dict[str, tuple[str, ...]]
    """Method → pre-training recipe and settings that are changed in it."""
    data: dict[str, Data]
    """By the paper's name of the dataset."""
    seeds_few: int
    """Repetitions with a part of the labels, where the draw matters."""
    seeds_all: int
    random_weights: bool
    """Whether tables also have the same network with random weights (not in the paper)."""
    drawing: Drawing | None = None

    def encoder(self, method: str, length: float = 1.0) -> Pretraining:
        """A method pre-trained for a share of its recipe's epochs, at least one.

        The warm-up keeps its length, as in the supplement's recipes of 50 and 400 epochs, but takes at most half.
        """
        recipe, *overrides = self.methods[method]
        if length < 1:
            schedule = load_pretrain_recipe(recipe, overrides).schedule
            epochs = max(1, int(schedule.epochs * length + 0.5))
            if epochs < schedule.epochs:
                overrides = [setting for setting in overrides if not setting.startswith("schedule.epochs=")]
                overrides.append(f"schedule.epochs={epochs}")
                overrides.append(f"schedule.warmup_epochs={min(schedule.warmup_epochs, epochs / 2)}")
        return Pretraining(recipe, tuple(overrides), self.drawing)

    def transfer(
        self, data: str, encoder: Pretraining, fraction: float = 1.0, *, random: bool = False, seeds: int | None = None
    ) -> Transfer:
        """An encoder judged on what is used for `data`, 3FabRec's by its own protocol; `seeds` replaces the scale's
        number."""
        used = self.data[data]
        wanted = self.seeds_all if fraction == 1 else self.seeds_few
        recipe = used.recipe if fraction == 1 else used.few or used.recipe
        if used.fabrec and encoder.recipe.method.name == "fabrec":
            recipe = used.fabrec
        return Transfer(recipe, encoder, fraction, seeds or wanted, random)


SCALES = {
    "paper": Scale(
        name="paper",
        faces="VGGFace2",
        methods={
            "fra": ("paper/resnet50.fra_vggface2_400ep",),
            "byol": ("paper/resnet50.byol_vggface2_400ep",),
            "swav": ("paper/resnet50.swav_bulat",),
            # The supplement does not say how long LEWEL was trained; as long as FRA is a fair comparison (ours).
            "lewel": ("paper/resnet50.lewel_vggface2_50ep", "schedule.epochs=400"),
            "fabrec": ("paper/resnet18.fabrec",),
        },
        data={
            "AffectNet": Data("AffectNet", "paper/affectnet7.finetune"),
            "RAF-DB": Data("RAF-DB", "paper/rafdb.finetune"),
            "CelebA": Data("CelebA", "paper/celeba.finetune"),
            "WFLW": Data("WFLW", "paper/wflw.star", "paper/wflw.star_fewshot", "paper/wflw.fabrec"),
            "300W": Data("300W", "paper/300w.star"),
        },
        seeds_few=3,
        seeds_all=1,
        random_weights=False,
    ),
    "laptop": Scale(
        name="laptop",
        faces="FairFace",
        methods={method: (f"laptop/resnet10_half.{method}",) for method in ("fra", "byol", "swav", "lewel", "fabrec")},
        data={
            "AffectNet": Data("RAF-DB", "laptop/rafdb.finetune"),
            "RAF-DB": Data("RAF-DB", "laptop/rafdb.finetune"),
            "CelebA": Data("CelebA", "laptop/celeba.finetune"),
            "WFLW": Data("300-W", "laptop/300w.star", "laptop/300w.star_fewshot", "laptop/300w.fabrec"),
            "300W": Data("300-W", "laptop/300w.star"),
        },
        seeds_few=3,
        seeds_all=1,
        random_weights=True,
    ),
    "smoke": Scale(
        name="smoke",
        faces="drawn faces",
        # Four epochs, so that an eighth, a half and all of them differ.
        methods={
            method: (f"smoke/resnet10_half.{method}", "schedule.epochs=4")
            for method in ("fra", "byol", "swav", "lewel", "fabrec")
        },
        data={
            "AffectNet": Data("drawn faces", "smoke/rafdb.finetune"),
            "RAF-DB": Data("drawn faces", "smoke/rafdb.finetune"),
            "CelebA": Data("drawn faces", "smoke/celeba.finetune"),
            "WFLW": Data("drawn faces", "smoke/300w.star", "smoke/300w.star_fewshot", "smoke/300w.fabrec"),
            "300W": Data("drawn faces", "smoke/300w.star"),
        },
        seeds_few=1,
        seeds_all=1,
        random_weights=True,
        drawing=Drawing(DRAWN_FACES),
    ),
}
