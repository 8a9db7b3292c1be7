"""Networks for face alignment: from an encoder's last map to a heatmap per landmark.

B images, C channels and h x w positions of the encoder's map, P landmarks, E edges of a face, n x n heatmap positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.encoder import HOURGLASS, Encoder
from fra.models.hourglass import WIDTH, CoordinateConvolution, Hourglass, Residual
from fra.recipe import Count, NotNegative, Positive, Settings
from fra.tasks.landmarks import Landmarks
from fra.tasks.point_tables import PointTable
from fra.tasks.task import Task
from fra.transfer.alignment.maps import edges_of
from fra.transfer.alignment.star_loss import Distance, Form, soft_argmax, spread


@dataclass(frozen=True)
class AlignmentConfig(Settings):
    """Settings of the star protocol's network and loss."""

    width: Count = 256
    """Channels of the three deconvolutions (Xiao et al., ECCV 2018; supplement 5.3.3 gives only their number)."""
    stacks: Count = 4
    """Number of stacked hourglasses, where the encoder is `hourglass` (STAR, Sec. 4.1)."""
    form: Form = "v2"
    """Form of the STAR loss: distance divided by deviation (v2, STAR's released code), or distance of the ratio (v1,
    earlier)."""
    distance: Distance = "smooth_l1"
    """Distance in the STAR loss (STAR, Sec. 4.1)."""
    spread_weight: NotNegative = 1.0
    """Weight of the heatmaps' variances in the STAR loss (STAR, eq. 8)."""
    map_weight: NotNegative = 10.0
    """Weight of the losses of point maps and edge maps (STAR, released code)."""
    consistent_grid: bool = False
    """Align a heatmap's outer edges with the image's, as for landmarks; otherwise the centres of its first and last
    position are aligned, up to 1/n off (STAR, released code)."""
    half_life: Positive = 10_000.0
    """Half-life of the network's running average, in images (STAR, released code: momentum .5^(batch/10000))."""


class Maps(NamedTuple):
    """What one stage says: maps >= 0."""

    fused: Float[Tensor, "B P n n"]
    """Landmarks are read from these."""
    points: Float[Tensor, "B P n n"]
    """Near 1 at the landmark."""
    edges: Float[Tensor, "B E n n"]
    """Near 1 along the edge."""
    heat: Float[Tensor, "B P n n"]
    """Heatmaps before points and edges limit them."""


class NoEdges(nn.Module):
    """Edge maps of points between which no edges are known."""

    def forward(self, features: Float[Tensor, "B D n n"]) -> Float[Tensor, "B 0 n n"]:
        return features[:, :0]


class Attention(nn.Module):
    """Heatmaps that only count near their landmark and on its edges (AAM; Huang et al., ADNet, ICCV 2021, Sec. 3.3)."""

    def __init__(self, channels: int, table: PointTable) -> None:
        super().__init__()
        self.heat = nn.Sequential(nn.Conv2d(channels, table.count, 1), nn.InstanceNorm2d(table.count), nn.ReLU())
        self.point = nn.Sequential(nn.Conv2d(channels, table.count, 1), nn.Sigmoid())
        self.edge: nn.Module = NoEdges()
        if table.edges:
            self.edge = nn.Sequential(nn.Conv2d(channels, len(table.edges), 1), nn.Sigmoid())
        self.register_buffer("on_edges", edges_of(table.count, table.edges), persistent=False)
        self.on_edges: Float[Tensor, "P E"]

    def forward(self, features: Float[Tensor, "B D n n"]) -> Maps:
        points, edges, heat = self.point(features), self.edge(features), self.heat(features)
        lines = torch.einsum("pe,behw->bphw", self.on_edges.to(edges.dtype), edges)
        free = self.on_edges.sum(1) == 0  # on no edge: nothing but its point map limits it
        return Maps((lines + free[:, None, None]) * points * heat, points, edges, heat)


class AlignmentHead(nn.Module, ABC):
    """Abstract: from an encoder's map to one or several stages; the last one's answer counts."""

    def __init__(self, *, consistent_grid: bool) -> None:
        super().__init__()
        self.consistent_grid = consistent_grid

    @abstractmethod
    def stages(self, maps: Float[Tensor, "B C h w"]) -> list[Maps]:
        """Every stage's maps, in order."""

    def forward(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B P2"]:
        """Landmarks, flat x, y in [-1, 1] of the image."""
        return soft_argmax(self.stages(maps)[-1].fused, consistent=self.consistent_grid).flatten(1)

    def with_variances(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B P3"]:
        """The same, and behind it the variance of each heatmap (the sum over both directions)."""
        found = spread(self.stages(maps)[-1].fused, consistent=self.consistent_grid)
        return torch.cat((found.mean.flatten(1), found.variances.sum(-1)), 1)


class Deconvolutions(AlignmentHead):
    """Three deconvolutions make the encoder's map eight times as high and wide (supplement 5.3.3; Xiao et al., 2018).

    64 x 64 for ResNet-50 at 256 pixels; 32 x 32 where the encoder leaves 4 x 4.
    """

    def __init__(self, channels: int, table: PointTable, *, width: int, consistent_grid: bool) -> None:
        super().__init__(consistent_grid=consistent_grid)
        layers: list[nn.Module] = []
        for before in (channels, width, width):
            layer = nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False)
            nn.init.normal_(layer.weight, std=0.001)
            layers += [layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.attention = Attention(width, table)
        self.to(memory_format=torch.channels_last)

    def stages(self, maps: Float[Tensor, "B C h w"]) -> list[Maps]:
        return [self.attention(self.layers(maps))]


class Merge(nn.Module):
    """What a stage adds to the maps that the next one gets: its features and its maps, the heatmaps before points and
    edges limit them (STAR, released code)."""

    def __init__(self, channels: int, table: PointTable) -> None:
        super().__init__()
        self.features = nn.Conv2d(channels, channels, 1)
        self.heat, self.points = (nn.Conv2d(table.count, channels, 1) for _ in range(2))
        self.edges = nn.Conv2d(len(table.edges), channels, 1) if table.edges else None

    def forward(self, features: Float[Tensor, "B D n n"], maps: Maps) -> Float[Tensor, "B D n n"]:
        merged = self.features(features) + self.heat(maps.heat) + self.points(maps.points)
        return merged if self.edges is None else merged + self.edges(maps.edges)


class Hourglasses(AlignmentHead):
    """STAR's own network: hourglasses one after another, a coordinate convolution before each."""

    def __init__(self, channels: int, table: PointTable, *, stacks: int, consistent_grid: bool) -> None:
        super().__init__(consistent_grid=consistent_grid)
        self.places = nn.ModuleList(CoordinateConvolution(channels, first=number == 0) for number in range(stacks))
        self.hourglasses = nn.ModuleList(Hourglass(channels) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(
                Residual(channels, channels), nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()
            )
            for _ in range(stacks)
        )
        self.attentions = nn.ModuleList(Attention(channels, table) for _ in range(stacks))
        self.merges = nn.ModuleList(Merge(channels, table) for _ in range(stacks - 1))

    def stages(self, maps: Float[Tensor, "B C h w"]) -> list[Maps]:
        found: list[Maps] = []
        for number, (hourglass, features) in enumerate(zip(self.hourglasses, self.features, strict=True)):
            here = features(hourglass(self.places[number](maps, found[-1].heat if found else None)))
            found.append(self.attentions[number](here))
            if number < len(self.merges):
                maps = maps + self.merges[number](here, found[-1])
        return found


def alignment_head(config: AlignmentConfig, task: Task, encoder: Encoder) -> AlignmentHead:
    """The head of the star protocol for an encoder, initialised from torch's global generator.

    Raises ValueError for any task but landmarks.
    """
    if not isinstance(task, Landmarks):
        raise ValueError(f"protocol star is for landmarks, not for {task.name}: use finetune")
    table = task.table
    if encoder.config.name == HOURGLASS.name:
        assert encoder.channels == WIDTH
        return Hourglasses(WIDTH, table, stacks=config.stacks, consistent_grid=config.consistent_grid)
    return Deconvolutions(encoder.channels, table, width=config.width, consistent_grid=config.consistent_grid)
