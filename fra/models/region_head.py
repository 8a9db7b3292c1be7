"""From an encoder's maps to facial regions: scores, heatmaps and one vector per region (spec fra.md, section 2)."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fra.models.distributed import Gradients, mean_over_processes
from fra.models.encoder import Encoder
from fra.models.heads import MLPHead
from fra.models.mask_decoder import DecoderConfig, MaskDecoder
from fra.models.similarity import unit
from fra.recipe import Count, Positive, Range, Settings


@dataclass(frozen=True)
class RegionHeadConfig(Settings):
    """Sizes of the region head; FRA fills it from its own settings."""

    regions: Annotated[int, Range(2)] = 8
    hidden: Count = 4096
    out: Count = 256
    scale: Positive = 1.0
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out % 2 or self.out % self.decoder.heads:  # half of the channels encode x, half y
            raise ValueError(f"head.out is {self.out}: give an even multiple of decoder.heads ({self.decoder.heads})")


@dataclass(frozen=True)
class RegionOutput:
    """What the region head returns for a batch.

    scores: cosine of every pixel with every mask embedding, in [-1, 1]. heatmaps: softmax of the scores over the K
    regions; at each position they sum to 1. vectors: the encoder's maps averaged under each heatmap. embeddings: the
    mask embeddings shared by the whole batch.
    """

    scores: Float[Tensor, "B K h w"]
    heatmaps: Float[Tensor, "B K h w"]
    vectors: Float[Tensor, "B K C"]
    embeddings: Float[Tensor, "K D"]


def region_scores(pixels: Float[Tensor, "B P D"], embeddings: Float[Tensor, "K D"]) -> Float[Tensor, "B K P"]:
    """Cosine similarity of every pixel with every mask embedding, in float32."""
    with torch.autocast(pixels.device.type, enabled=False):
        return torch.einsum("bpd,kd->bkp", unit(pixels), unit(embeddings))


def pool_regions(maps: Float[Tensor, "B P C"], heatmaps: Float[Tensor, "B K P"]) -> Float[Tensor, "B K C"]:
    """Average of the maps under each heatmap, weights normalised over the positions."""
    weights = heatmaps / heatmaps.sum(-1, keepdim=True)
    return weights.to(maps.dtype) @ maps


def assignment(scores: Float[Tensor, "B K h w"], *, temperature: float = 0.1) -> Float[Tensor, "B K h w"]:
    """How sharply each position chooses: softmax of the scores over regions at the cluster loss's temperature.

    The heatmaps themselves are soft by design: cosines in [-1, 1] at scale 1 keep each of 8 maps between .019 and .51,
    their entropy above 1.63 of log 8 = 2.08 and their cosines near 1 even when regions are well apart. Numbers about
    decisions are therefore taken at the temperature at which pre-training decides (0.1), as in health.csv.
    """
    return (scores.float() / temperature).softmax(dim=1)


def owners(heatmaps: Float[Tensor, "B K h w"]) -> Int[Tensor, "B h w"]:
    """The region that wins each position."""
    return heatmaps.argmax(dim=1)


def region_shares(heatmaps: Float[Tensor, "B K h w"]) -> Float[Tensor, "K"]:
    """Share of positions that each region wins; they sum to 1."""
    winners = owners(heatmaps).flatten()
    return torch.bincount(winners, minlength=heatmaps.shape[1]).float() / len(winners)


def _rows(maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B P C"]:
    return maps.flatten(2).transpose(1, 2)


class RegionHead(nn.Module):
    """Pixel projector H^pix, mask decoder, and the running mask embeddings used at inference (`prototypes`)."""

    def __init__(self, channels: int, config: RegionHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.pixel_projector = MLPHead(channels, hidden=config.hidden, out=config.out)
        self.decoder = MaskDecoder(channels, config.decoder, regions=config.regions, dim=config.out)
        self.register_buffer("prototypes", torch.zeros(config.regions, config.out))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.prototypes: Tensor
        self.updates: Tensor

    def forward(
        self,
        maps: Float[Tensor, "B C h w"],
        *,
        embeddings: Float[Tensor, "K D"] | None = None,
        gradients: Gradients = "exact",
        detached: bool = False,
    ) -> RegionOutput:
        """Regions of a batch; `embeddings` replaces the batch's own mean mask embeddings (inference).

        `gradients` says how that mean over all processes is differentiated (training). `detached`: scores and heatmaps
        send no gradient into the maps, only the vectors pooled from them do.
        """
        height, width = maps.shape[2:]
        seen = maps.detach() if detached else maps
        if embeddings is None:
            embeddings = mean_over_processes(self.decoder(seen).float().mean(0), gradients=gradients)
        scores = region_scores(self.pixel_projector(_rows(seen)), embeddings)
        heatmaps = (scores / self.config.scale).softmax(dim=1) + 1e-7
        vectors = pool_regions(_rows(maps), heatmaps)
        shape = (maps.shape[0], -1, height, width)  # len() would fix the batch size of exported programs
        return RegionOutput(scores.view(shape), heatmaps.view(shape), vectors, embeddings)

    @torch.no_grad()
    def remember(self, embeddings: Float[Tensor, "K D"], *, momentum: float = 0.9) -> None:
        """Move the running mask embeddings towards this step's; the first call sets them (spec fra.md, section 5)."""
        # Where the counter is: to look at it, a GPU would be waited for in every step.
        share = torch.where(self.updates == 0, 1.0, 1 - momentum).to(self.prototypes)
        self.prototypes.lerp_(embeddings, share)
        self.updates += 1


class RegionModel(nn.Module):
    """Encoder and region head after pre-training: images to heatmaps, for one image or a batch."""

    def __init__(self, encoder: Encoder, head: RegionHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    @property
    def regions(self) -> int:
        return self.head.config.regions

    @torch.inference_mode()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> RegionOutput:
        """Heatmaps from the running mask embeddings, so that they do not depend on the other images.

        Before the first step there are none: then from the images' own mean mask embeddings, as in training.
        """
        embeddings = self.head.prototypes if self.head.prototypes.any() else None
        return self.head(self.encoder.maps(images), embeddings=embeddings)
