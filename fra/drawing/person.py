"""Who a drawn face is: shape, expression, hair, light, pose, all read from one stream of random numbers.

Lengths are in model units: half the width of an average face. The model's x grows to the right of the
picture, y downwards, z towards the viewer; the eyes are on y = 0, the chin near y = 1.6.
"""

from dataclasses import dataclass, replace
from typing import no_type_check

import numpy as np

EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""The seven expressions in RAF-DB's order."""

Colour = tuple[int, int, int]


# called hundreds of times a face: the tests' type checks would cost more than the work
@no_type_check
class Dice:
    """Random numbers of one seed, drawn in one call because single draws cost a microsecond each."""

    def __init__(self, seed: int, *, count: int = 700) -> None:
        self._values = iter(np.random.default_rng([seed]).random(count).tolist())

    def chance(self, probability: float) -> bool:
        return next(self._values) < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._values)

    def bell(self, width: float) -> float:
        """A bell-shaped number in [-width, width]: mean of three uniform ones."""
        total = next(self._values) + next(self._values) + next(self._values)
        return (total / 1.5 - 1.0) * width

    def below(self, count: int) -> int:
        return int(next(self._values) * count)


@dataclass(frozen=True)
class Mimic:
    """What an expression does to a neutral face. Zero, or one for a factor, means: as at rest."""

    inner_brow: float = 0.0
    outer_brow: float = 0.0
    squeeze: float = 0.0
    """How far the brows move towards each other."""
    lid: float = 1.0
    """Opening of the upper lid, a factor."""
    lower_lid: float = 0.0
    """How far the lower lid is raised, 1 = to the middle of the eye."""
    width: float = 1.0
    """Mouth width, a factor."""
    corner: float = 0.0
    """How far the mouth corners are raised."""
    gape: float = 0.0
    """Opening between the lips."""
    sneer: float = 0.0
    """How far the upper lip is raised."""
    lips: float = 1.0
    """Thickness of the lips, a factor: pressed lips are thin."""
    jaw: float = 0.0
    wrinkle: float = 0.0
    """Nose wrinkles, 0 to 1; the next ones likewise."""
    fold: float = 0.0
    frown: float = 0.0
    forehead: float = 0.0
    teeth: float = 0.0


MIMICS = {
    "surprise": Mimic(inner_brow=0.2, outer_brow=0.19, lid=1.55, lower_lid=-0.2, width=0.66, gape=0.4, jaw=0.24,
                      forehead=1.0),
    "fear": Mimic(inner_brow=0.2, outer_brow=-0.02, squeeze=0.07, lid=1.5, width=1.22, corner=-0.09, gape=0.15,
                  jaw=0.08, forehead=0.8, frown=0.4, teeth=1.0, lips=0.8),
    "disgust": Mimic(inner_brow=-0.11, outer_brow=-0.01, squeeze=0.05, lid=0.6, lower_lid=0.6, width=0.9, corner=-0.1,
                     gape=0.015, sneer=0.1, wrinkle=1.0, fold=1.0, frown=0.5),
    "happiness": Mimic(inner_brow=0.02, outer_brow=0.04, lid=0.84, lower_lid=0.5, width=1.34, corner=0.15, gape=0.17,
                       jaw=0.05, fold=0.8, teeth=1.0, lips=0.85),
    "sadness": Mimic(inner_brow=0.17, outer_brow=-0.13, squeeze=0.05, lid=0.66, lower_lid=0.1, width=0.9, corner=-0.105,
                     forehead=0.3, fold=0.3),
    "anger": Mimic(inner_brow=-0.17, outer_brow=0.07, squeeze=0.09, lid=0.88, lower_lid=0.4, width=0.96, corner=-0.06,
                   lips=0.5, wrinkle=0.3, fold=0.6, frown=1.0),
    "neutral": Mimic(),
}  # fmt: skip
"""Ours, after the action units that the facial action coding system gives for each emotion."""


@dataclass(frozen=True)
class Pose:
    """Angles in radians; scale and centre as fractions of the picture's side."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre_x: float
    centre_y: float


@dataclass(frozen=True)
class Build:
    """A person's bones and flesh; factors around 1 and shifts around 0."""

    width: float
    jaw: float
    chin: float
    chubby: bool
    oval: bool
    eye_distance: float
    eye_size: float
    eye_tilt: float
    narrow_eyes: bool
    nose_width: float
    nose_length: float
    big_nose: bool
    mouth_width: float
    lips: float
    big_lips: bool
    brow_height: float
    brow_arch: float
    brow_weight: float
    forehead: float
    gaze: float


@dataclass(frozen=True)
class Hair:
    """`style` is bald, short or long; `front` is up, part, bangs or receding."""

    style: str
    front: str
    wavy: bool
    volume: float
    side: float
    colour_name: str
    colour: Colour


@dataclass(frozen=True)
class Extras:
    """What is on the face besides the face. Empty strings mean: nothing."""

    beard: str
    mustache: bool
    sideburns: bool
    makeup: bool
    lipstick: bool
    rosy: bool
    bags: bool
    glasses: str
    hat: str
    earrings: bool
    necklace: bool
    necktie: bool
    occluder: str
    blurry: bool


@dataclass(frozen=True)
class Person:
    expression: int
    mimic: Mimic
    pose: Pose
    build: Build
    hair: Hair
    extras: Extras
    tone: float
    """Skin from very light, 0, to very dark, 1."""
    pale: bool
    light: tuple[float, float, float]
    """Direction towards the lamp."""
    contrast: float


HAIR_COLOURS: dict[str, tuple[Colour, ...]] = {
    "black": ((30, 26, 30), (22, 22, 28), (40, 32, 32)),
    "brown": ((92, 58, 36), (74, 46, 30), (116, 76, 46)),
    "blond": ((226, 188, 116), (206, 164, 92), (238, 212, 150)),
    "gray": ((164, 164, 168), (196, 196, 198), (134, 136, 142)),
    "other": ((160, 66, 30), (142, 48, 36), (186, 92, 48)),
}

CLOTHES: tuple[Colour, ...] = ((40, 52, 84), (120, 36, 44), (46, 84, 70), (188, 176, 160), (64, 60, 66), (206, 120, 70),
                               (110, 130, 160), (230, 226, 220), (90, 64, 110), (30, 30, 34))  # fmt: skip


def _hair_colour(dice: Dice, *, tone: float) -> tuple[str, Colour]:
    """Blond and red grow rarer with darker skin, as people expect; grey does not."""
    roll = dice.between(0.0, 1.0)
    limits = (0.2, 0.48, 0.76, 0.9) if tone < 0.55 else (0.46, 0.78, 0.84, 0.98)
    names = ("black", "brown", "blond", "gray", "other")
    name = names[sum(roll >= limit for limit in limits)]
    choices = HAIR_COLOURS[name]
    red, green, blue = choices[dice.below(len(choices))]
    factor = dice.between(0.92, 1.08)
    return name, (min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor)))


def _hair(dice: Dice, *, bearded_kind: bool, tone: float) -> Hair:
    name, colour = _hair_colour(dice, tone=tone)
    wavy = dice.chance(0.46)
    roll = dice.between(0.0, 1.0)
    if bearded_kind:
        style = "bald" if roll < 0.2 else "long" if roll < 0.3 else "short"
        fronts: tuple[str, ...] = ("up", "part", "receding", "part", "receding", "bangs")
    else:
        style = "short" if roll < 0.18 else "long"
        fronts = ("part", "bangs", "up", "part", "bangs")
    front = fronts[dice.below(len(fronts))]
    if style == "bald":
        name, front, wavy = "none", "none", False
    return Hair(style=style, front=front, wavy=wavy, volume=dice.between(0.1, 0.26),
                side=-1.0 if dice.chance(0.5) else 1.0, colour_name=name, colour=colour)  # fmt: skip


def _extras(dice: Dice, *, bearded_kind: bool, hair: Hair) -> Extras:
    beard, mustache, sideburns = "", False, False
    if bearded_kind:
        roll = dice.between(0.0, 1.0)
        beard = "shadow" if roll < 0.2 else "goatee" if roll < 0.4 else "full" if roll < 0.6 else ""
        mustache = beard == "full" or dice.chance(0.7 if beard == "goatee" else 0.16)
        sideburns = hair.style != "long" and (beard == "full" or dice.chance(0.2))
    makeup = not bearded_kind and dice.chance(0.4)
    glasses = ("round", "square", "sun")[dice.below(3)] if dice.chance(0.2) else ""
    if glasses == "sun" and dice.chance(0.4):
        glasses = "square"
    hat = ("beanie", "cap")[dice.below(2)] if hair.style != "bald" and dice.chance(0.15) else ""
    occluder = ("hand", "cup", "microphone", "scarf")[dice.below(4)] if dice.chance(0.13) else ""
    open_neck = occluder in ("", "hand")
    if not open_neck and beard == "goatee":
        beard = ""
    return Extras(
        beard=beard,
        mustache=mustache,
        sideburns=sideburns,
        makeup=makeup,
        lipstick=makeup or (not bearded_kind and dice.chance(0.25)),
        rosy=dice.chance(0.3 if not bearded_kind else 0.1),
        bags=dice.chance(0.16),
        glasses=glasses,
        hat=hat,
        earrings=dice.chance(0.38 if not bearded_kind else 0.06),
        necklace=open_neck and not bearded_kind and dice.chance(0.32),
        necktie=open_neck and bearded_kind and dice.chance(0.24),
        occluder=occluder,
        blurry=dice.chance(0.1),
    )


def _build(dice: Dice, *, bearded_kind: bool) -> Build:
    chubby = dice.chance(0.16)
    oval = not chubby and dice.chance(0.36)
    big_nose, big_lips = dice.chance(0.22), dice.chance(0.22)
    return Build(
        width=1.0 + dice.bell(0.05) + (0.05 if chubby else -0.05 if oval else 0.0),
        jaw=(0.94 if oval else 1.09 if chubby else 1.03 if bearded_kind else 0.99) + dice.bell(0.05),
        chin=dice.bell(0.07) + (0.06 if oval else 0.0),
        chubby=chubby,
        oval=oval,
        eye_distance=dice.bell(0.04),
        eye_size=1.0 + dice.bell(0.1) + (0.0 if bearded_kind else 0.06),
        eye_tilt=dice.bell(0.035),
        narrow_eyes=dice.chance(0.17),
        nose_width=(1.42 if big_nose else 0.94) + dice.bell(0.1),
        nose_length=(0.07 if big_nose else 0.0) + dice.bell(0.04),
        big_nose=big_nose,
        mouth_width=1.0 + dice.bell(0.08),
        lips=(1.62 if big_lips else 0.92) + dice.bell(0.12),
        big_lips=big_lips,
        brow_height=dice.bell(0.04),
        brow_arch=dice.between(0.0, 1.0),
        brow_weight=(1.9 if dice.chance(0.3 if bearded_kind else 0.16) else 1.0 if bearded_kind else 0.8),
        forehead=dice.bell(0.08),
        gaze=dice.bell(0.05),
    )


def _felt(dice: Dice, name: str) -> Mimic:
    """The expression with this person's strength; some laugh with closed lips, some shout in anger."""
    full, rest = MIMICS[name], Mimic()
    strength = dice.between(0.82, 1.12)
    values = {key: getattr(rest, key) + strength * (getattr(full, key) - getattr(rest, key)) for key in vars(rest)}
    closed, wide = dice.chance(0.35), dice.chance(0.4)
    if name == "happiness" and closed:
        values |= {"gape": 0.0, "teeth": 0.0, "jaw": 0.0}
    if name == "anger" and wide:
        values |= {"gape": 0.15, "teeth": 1.0, "jaw": 0.08, "lips": 0.75}
    if name == "neutral":
        values |= {"corner": dice.bell(0.015), "gape": 0.06 if wide and closed else 0.0, "lid": 1.0 + dice.bell(0.08)}
    return Mimic(**values)


def person(seed: int) -> Person:
    """The person of a seed: a pure function, the same in any process."""
    dice = Dice(seed)
    expression = dice.below(len(EXPRESSIONS))
    bearded_kind = dice.chance(0.5)
    pale = dice.chance(0.13)
    tone = 0.0 if pale else dice.between(0.12, 1.0)
    hair = _hair(dice, bearded_kind=bearded_kind, tone=tone)
    lamp = np.array([dice.between(-0.9, 0.9), dice.between(-0.75, 0.1), 0.75])
    lamp /= np.sqrt((lamp * lamp).sum())
    extras = _extras(dice, bearded_kind=bearded_kind, hair=hair)
    if extras.hat:  # a hat would hide bangs and a receding hairline; some hair should show below it
        front = hair.front if hair.front == "part" else "up"
        hair = replace(hair, front=front, volume=max(0.2, hair.volume))
    return Person(
        expression=expression,
        mimic=_felt(dice, EXPRESSIONS[expression]),
        pose=Pose(yaw=dice.bell(0.5), pitch=dice.bell(0.28), roll=dice.bell(0.26), scale=dice.between(0.285, 0.312),
                  centre_x=0.5 + dice.bell(0.035), centre_y=0.5 + dice.bell(0.03)),
        build=_build(dice, bearded_kind=bearded_kind),
        hair=hair,
        extras=extras,
        tone=tone,
        pale=pale,
        light=(float(lamp[0]), float(lamp[1]), float(lamp[2])),
        contrast=dice.between(0.55, 1.05),
    )  # fmt: skip
