"""The contract of a pre-training method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fra.models.encoder import Encoder
from fra.models.heads import MLPHead
from fra.models.region_head import RegionModel
from fra.pretrain.columns import HealthColumn
from fra.recipe import Count, Settings
from fra.training.trainable import Loss, Part, Progress, together


@dataclass(frozen=True)
class HeadConfig(Settings):
    """Size of the two-layer projectors and predictors."""

    hidden: Count = 4096
    """Width of the hidden layer (supplement 5.1)."""
    out: Count = 256
    """Embedding dimension D (supplement 5.1)."""
    normalised: bool = False
    """Batch norm, without weights, at the end of the projectors whose embeddings are compared (ours, as in SimSiam and
    MoCo v3: what all faces share is no longer a cheap way to agree, docs/dev/log.md)."""

    def projector(self, channels: int, *, bias: bool = False) -> MLPHead:
        """From `channels` to embeddings."""
        return MLPHead(channels, hidden=self.hidden, out=self.out, bias=bias, normalised=self.normalised)


class FramedViews(NamedTuple):
    """Views, and where each lies in its image."""

    views: Sequence[Float[Tensor, "B RGB _ _"]]
    frames: Sequence[Float[Tensor, "B 4"]]
    """Left, top, width and height as shares of the image; the width of a mirrored view is negative, its left edge the
    right edge of what it shows."""


class Method(nn.Module, ABC):
    """An encoder that is being pre-trained. Concrete methods compose `fra.models`; none inherits from another."""

    online: nn.Module
    """The network that is trained and exported, without its predictors."""
    large_views: ClassVar[int] = 2
    """How many large views of a face it takes."""
    multi_crop: ClassVar[bool] = False
    """More views than those, and small ones, make sense to it."""
    wants_frames: bool = False
    """In training `parts` is given FramedViews instead of the views alone."""
    loss_terms: ClassVar[Mapping[str, str]] = {}
    """What the named terms of its loss mean, a phrase each, for the report's charts of log.csv."""
    health_columns: ClassVar[tuple[HealthColumn, ...]] = ()
    """The columns of health.csv that it has beside those of all methods."""

    still: Sequence[nn.Module] = ()
    """Norms that stay in eval mode, whatever `train` says (`fra.pretrain.start`)."""

    def train(self, mode: bool = True) -> "Method":
        super().train(mode)
        for norm in self.still:
            norm.eval()
        return self

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The network that is trained and later exported."""

    @abstractmethod
    def parts(self, views: Sequence[Float[Tensor, "B RGB _ _"]], progress: Progress) -> Sequence[Part]:
        """The loss of a batch as a sum of parts that need no activations of one another, to be called in their order.

        One tensor per view of the same faces, RGB in [0, 1], large views first.
        """

    def loss(self, views: Any, progress: Progress) -> Loss:
        """The sum of `parts`, which say what they take."""
        return together([part() for part in self.parts(views, progress)])

    @abstractmethod
    def after_step(self, progress: Progress) -> None:
        """Called once after every optimiser step; `progress` is that of the step just done."""

    @abstractmethod
    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        """The online global embeddings of faces, for the health monitor."""

    def teacher_encoder(self) -> Encoder | None:
        """The momentum teacher's encoder, to watch how far it lags behind, where the method has one."""
        return None

    def own_health(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, float]:
        """Its `health_columns`, measured in eval mode and without gradient; those of regions are measured for it."""
        return {}

    def own_warnings(self, row: dict[str, Any]) -> list[str]:
        """Plain sentences on what is wrong in a row of health.csv that holds all columns; not asked before training."""
        return []

    def own_pictures(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, list[UInt8[Tensor, "RGB _ _"]]]:
        """Pictures to keep of an epoch by their names, in rows under these faces; in eval mode, without gradient."""
        return {}

    def region_model(self) -> RegionModel | None:
        """The encoder with its region head, where the method has one."""
        return None

    def teacher_momentum(self, progress: Progress) -> float | None:
        """The teacher's momentum at this step, for the journal."""
        return None
