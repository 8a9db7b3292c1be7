"""3FabRec (Browatzki and Wallraven, CVPR 2020), its first stage: an adversarial autoencoder of faces.

Encoder and decoder learn to make a face again from a code of 99 numbers; a critic keeps codes normally distributed, a
discriminator keeps what is made like real faces. Few labels then turn the decoder into landmarks (`fra transfer`,
protocol fabrec). B images, Z numbers of a code, S pixels a side. "Code" means the authors' published program (spec
fewshot_baselines.md, A).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from fra.models.distributed import processes
from fra.models.encoder import Encoder, in_batches
from fra.models.face_decoder import CodeCritic, Discriminator, FaceDecoder
from fra.models.structure import contrast_structure
from fra.pretrain.columns import HealthColumn, Judgement, Table, from_to
from fra.pretrain.method import Method
from fra.recipe import Count, NotNegative, Positive, Range, Settings, Share
from fra.training.trainable import Loss, Part, Progress

LEVELS = 255
"""The pixel term is in grey levels (code)."""


@dataclass(frozen=True)
class ChangeConfig(Settings):
    """Random changes of a face before it is encoded, and which it is to be made again with (code, augmentation 4).

    Each is uniform between minus and plus the number; mirroring is `views.flip`. What comes in from outside the image
    is the image mirrored at its edge (ours: the authors cut larger photos).
    """

    turn: Annotated[float, Range(0, 180)] = 45.0
    """Degrees."""
    shift: Share = 0.035
    """Of the side, on either axis."""
    zoom: tuple[Positive, Positive] = (0.94, 1.03)
    """The least and the largest factor."""
    shear: Annotated[float, Range(0, 45)] = 5.0
    """Degrees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.zoom
        if low > high:
            raise ValueError(f"change.zoom is [{low}, {high}]: give two numbers, the smaller first")


@dataclass(frozen=True)
class FabRecConfig(Settings):
    """Settings of 3FabRec's autoencoder."""

    name: Literal["fabrec"] = "fabrec"
    code: Count = 99
    """Numbers of a code Z (paper, Sec. 3.2)."""
    decoder_width: Count = 512
    """Channels of the decoder's first map; a half, a quarter and an eighth follow (code)."""
    last_scale: Positive = 1.0
    """Factor on the first weights of the last layers of decoder and discriminator (code: 1, at which the hyperbolic
    tangent is saturated and logits are large, so that learning begins slowly; ours, for short runs: .05)."""
    critic_width: Count = 1000
    """Units of the code's critic (code)."""
    discriminator_width: Count = 32
    """Channels of the discriminator's first map (code)."""
    pixel_weight: NotNegative = 1.0
    """Weight of the mean absolute difference, in grey levels (code)."""
    structure_weight: NotNegative = 60.0
    """Weight of one less contrast and structure (code); from where it takes part, both terms count a half."""
    structure_window: Count = 31
    """Side of its Gaussian window, in pixels (code)."""
    structure_sigma: Positive = 1.5
    """Standard deviation of that window, in pixels (code)."""
    structure_span: Positive = 2.0
    """Range of pixel values in its constant (ours: the code guesses 1 or 2 from each batch, mostly 2)."""
    code_weight: NotNegative = 1.0
    """Weight of the encoder's adversarial term (ours: neither paper nor spec gives one)."""
    image_weight: NotNegative = 1.0
    """Weight of the autoencoder's adversarial term on images (ours, as above); 0 leaves the discriminator out."""
    critic_every: Count = 4
    """Steps from one update of the critic to the next (code)."""
    encoder_every: Count = 2
    """Steps from one adversarial update of the encoder to the next (code)."""
    structure_from: Share = 0.5
    """Share of the run after which the structure term takes part (paper: later; the share is ours)."""
    image_from: Share = 0.5
    """Share of the run after which the discriminator takes part (paper: later; the share is ours)."""
    change: ChangeConfig = field(default_factory=ChangeConfig)


class Autoencoder(nn.Module):
    """Encoder, the layer from its features to a code, and the decoder."""

    def __init__(self, config: FabRecConfig, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = nn.Linear(encoder.channels, config.code)
        self.decoder = FaceDecoder(config.code, side=encoder.image_size, width=config.decoder_width)

    def codes(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B Z"]:
        return self.code(self.encoder(faces))

    def forward(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B RGB S S"]:
        """The faces made again, less the encoder's mean colour."""
        return self.decoder(self.codes(faces))


def _judge_codes(values: np.ndarray, table: Table) -> Judgement:
    last, observed = values[-1], from_to(values, ".2f")
    if last < 0.1:
        return Judgement(f"{observed}; all faces have nearly the same code", "bad")
    return Judgement(observed, "good" if 0.5 <= last <= 2 else "watch")


def _judge_error(values: np.ndarray, table: Table) -> Judgement:
    observed = from_to(values, ".1f")
    if len(values) > 1 and values[-1] >= values[0]:
        return Judgement(f"{observed}; no gain", "watch")
    return Judgement(observed, "good")


class FabRec(Method):
    """The autoencoder and its two opponents, in one step: each learns from what the others were before it.

    That is the same as to let them take turns on one batch, the autoencoder first, and to show the opponents what it
    had made. Of each term only those weights get a gradient that it is to move, and with Adam a weight without a
    gradient stays as it is.
    """

    online: Autoencoder
    large_views = 1
    loss_terms: ClassVar = {
        "pixels": "mean absolute difference of face and reconstruction, in grey levels",
        "structure": "1 less contrast and structure in common; 0 is the same",
        "code_fools": "the encoder's codes pass for drawn ones",
        "critic": "the critic tells codes from drawn ones; log 4 is no better than chance",
        "image_fools": "reconstructions pass for faces; 0 until they have to",
        "discriminator": "the discriminator tells reconstructions from faces; log 4 is chance, 0 until it takes part",
    }
    health_columns = (
        HealthColumn(
            "reconstruction_error",
            title="Reconstruction error",
            meaning="mean absolute difference of a face and its reconstruction, in grey levels of 255",
            good="falls",
            judge=_judge_error,
        ),
        HealthColumn(
            "reconstruction_structure",
            title="Structure in common",
            meaning="contrast and structure that a face and its reconstruction have in common; 1 is the same",
            good="rises",
        ),
        HealthColumn(
            "code_std",
            title="Spread of the codes",
            meaning="standard deviation over faces of a code's numbers, their mean",
            good="near 1, as in the normal distribution that codes are to have; not near 0",
            judge=_judge_codes,
        ),
        HealthColumn(
            "code_mean",
            title="Offset of the codes",
            meaning="absolute mean over faces of a code's numbers, their mean",
            good="near 0",
        ),
    )

    def __init__(self, config: FabRecConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        side = encoder.image_size
        self.online = Autoencoder(config, encoder)
        self.critic = CodeCritic(config.code, hidden=config.critic_width)
        self.discriminator = Discriminator(side=side, width=config.discriminator_width) if config.image_weight else None
        last: list[Any] = [self.online.decoder.last]
        if self.discriminator is not None:
            last.append(self.discriminator.layers[-1])
        with torch.no_grad():
            for layer in last:
                layer.weight.mul_(config.last_scale)

    @property
    def encoder(self) -> Encoder:
        return self.online.encoder

    def parts(self, views: Sequence[Float[Tensor, "B RGB S S"]], progress: Progress) -> Sequence[Part]:
        return [partial(self._loss, views[0], progress)]

    def _loss(self, faces: Float[Tensor, "B RGB S S"], progress: Progress) -> Loss:
        config, done = self.config, progress.fraction
        if self.training:
            faces = changed(faces, config.change)
        wanted = faces - self.encoder.mean
        codes = self.online.codes(faces)
        made = self.online.decoder(codes).float()
        pixels = LEVELS * (made - wanted).abs().mean()
        structure = 1 - self._structure(made, wanted).mean()
        total = config.pixel_weight * pixels
        if done >= config.structure_from:
            total = (total + config.structure_weight * structure) / 2
        terms = dict(pixels=pixels, structure=structure)

        code_fools = fools(frozen(self.critic, codes))
        critic = tells(self.critic(torch.randn_like(codes)), self.critic(codes.detach()))
        if progress.step % config.encoder_every == config.encoder_every - 1:
            total = total + config.code_weight * code_fools
        if progress.step % config.critic_every == config.critic_every - 1:
            total = total + critic
        terms |= dict(code_fools=code_fools, critic=critic)

        image_fools = discriminator = torch.zeros((), device=faces.device)
        if self.discriminator is not None and done >= config.image_from:
            image_fools = fools(frozen(self.discriminator, made))
            discriminator = tells(self.discriminator(wanted), self.discriminator(made.detach()))
            total = total + config.image_weight * image_fools + discriminator
        terms |= dict(image_fools=image_fools, discriminator=discriminator)
        if processes() > 1:  # a gradient of zero for the rest: several processes wait for every weight
            total = (
                total + 0.0 * torch.stack([weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()
            )
        return Loss(total, terms)

    def _structure(self, made: Tensor, wanted: Tensor) -> Float[Tensor, "B"]:
        return contrast_structure(
            made,
            wanted,
            window=self.config.structure_window,
            sigma=self.config.structure_sigma,
            span=self.config.structure_span,
        )

    def after_step(self, progress: Progress) -> None:
        """Nothing follows a step."""

    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B Z"]:
        return self.online.codes(faces)

    def own_health(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, float]:
        made, wanted = in_batches(self.online, faces), faces - self.encoder.mean
        codes = in_batches(self.online.codes, faces)
        return dict(
            reconstruction_error=LEVELS * float((made - wanted).abs().mean()),
            reconstruction_structure=float(
                in_batches(lambda pair: self._structure(*pair.unbind(1)), _pairs(made, wanted)).mean()
            ),
            code_std=float(codes.std(0).mean()),
            code_mean=float(codes.mean(0).abs().mean()),
        )

    def own_warnings(self, row: dict[str, Any]) -> list[str]:
        if row["code_std"] < 0.1:
            return ["All faces have nearly the same code: lower the learning rate or method.code_weight."]
        return []

    def own_pictures(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, list[UInt8[Tensor, "RGB S S"]]]:
        """`reconstructions`: the faces, and under each what is made of its code."""
        made = (in_batches(self.online, faces) + self.encoder.mean).clamp(0, 1)
        return {"reconstructions": [(255 * face).round().byte().cpu() for face in (*faces, *made)]}


def _pairs(first: Tensor, second: Tensor) -> Float[Tensor, "B 2 RGB S S"]:
    return torch.stack([first, second], 1)


def frozen(network: nn.Module, inputs: Tensor) -> Tensor:
    """What `network` says of inputs: gradients reach them, and none of its weights."""
    return functional_call(network, {name: weight.detach() for name, weight in network.named_parameters()}, (inputs,))


def fools(logits: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """-log D: how far an opponent is from taking these for real."""
    return F.softplus(-logits.float()).mean()


def tells(real: Float[Tensor, "B"], made: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """-log D(real) - log(1 - D(made)): how badly an opponent tells both apart; log 4 by chance."""
    return F.softplus(-real.float()).mean() + F.softplus(made.float()).mean()


def changed(faces: Float[Tensor, "B RGB S S"], how: ChangeConfig) -> Float[Tensor, "B RGB S S"]:
    """Faces turned, moved, scaled and sheared about their middle, by torch's global generator."""
    count = len(faces)

    def uniform(low: float, high: float) -> Float[Tensor, "B"]:
        return torch.empty(count).uniform_(low, high)

    turn, shear = (math.radians(most) * uniform(-1, 1) for most in (how.turn, how.shear))
    zoom, shift = uniform(*how.zoom), 2 * how.shift * torch.empty(count, 2).uniform_(-1, 1)
    cosine, sine = turn.cos() / zoom, turn.sin() / zoom
    # From where each place of the result comes, from edge to edge in [-1, 1].
    rows = [
        torch.stack([cosine, sine + cosine * shear.tan(), shift[:, 0]], 1),
        torch.stack([-sine, cosine - sine * shear.tan(), shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).to(faces), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="reflection", align_corners=False)
