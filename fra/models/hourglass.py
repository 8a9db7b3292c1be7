"""The hourglass network (Newell et al., ECCV 2016) as STAR has it: the face alignment that the paper's ResNet replaces.

B images, D channels, n x n positions. Its first layers serve as an encoder (`random:hourglass`), the hourglasses
themselves as the head of `fra.transfer.alignment.network`, because each is taught and gives its maps to the next.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH, LEVELS = 256, 4
"""Channels, and how often a hourglass halves its maps (STAR, released code)."""
BRIGHT = 0.05
"""Where a heatmap says that its landmark may be (STAR, released code)."""


def coordinates(height: int, width: int, *, like: Tensor) -> Float[Tensor, "3 H W"]:
    """x, y and the distance from the middle, -1, -1 and 1 at the first corner (CoordConv, Liu et al., 2018)."""
    y, x = (torch.linspace(-1, 1, side, device=like.device, dtype=like.dtype) for side in (height, width))
    y, x = y[:, None].expand(height, width), x.expand(height, width)
    return torch.stack([x, y, torch.hypot(x, y) / 2**0.5])


class CoordinateConvolution(nn.Module):
    """A 1 x 1 convolution that also sees where it is (`coordinates`), before each of STAR's hourglasses.

    From the second hourglass on also x and y where the last heatmap of the stage before is BRIGHT, 0 elsewhere.
    """

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels + (3 if first else 5), channels, 1)

    def forward(
        self, maps: Float[Tensor, "B D n n"], heat: Float[Tensor, "B P n n"] | None = None
    ) -> Float[Tensor, "B D n n"]:
        """`heat` are the heatmaps of the stage before, if there is one."""
        where = coordinates(*maps.shape[-2:], like=maps).expand(len(maps), -1, -1, -1)
        parts = [maps, where]
        if heat is not None:
            parts.append(where[:, :2] * (heat[:, -1:] > BRIGHT))
        return self.mix(torch.cat(parts, 1))


class Residual(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside a shortcut, batch norm before each (Newell et al., Fig. 4)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.layers = nn.Sequential(
            *[nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1)],
            *[nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1)],
            *[nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, out, 1)],
        )
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Float[Tensor, "B C n n"]) -> Float[Tensor, "B D n n"]:
        return self.shortcut(x) + self.layers(x)


class Hourglass(nn.Module):
    """Down `levels` times by max pooling and up again, with a branch that stays at each resolution.

    A map too small to be halved again goes through without.
    """

    def __init__(self, channels: int = WIDTH, levels: int = LEVELS) -> None:
        super().__init__()
        self.beside, self.before, self.after = (Residual(channels, channels) for _ in range(3))
        self.inside = Hourglass(channels, levels - 1) if levels > 1 else Residual(channels, channels)

    def forward(self, x: Float[Tensor, "B D n n"]) -> Float[Tensor, "B D n n"]:
        small = F.max_pool2d(x, 2) if x.shape[-1] > 1 else x
        small = self.after(self.inside(self.before(small)))
        return self.beside(x) + F.interpolate(small, size=x.shape[-2:])


class HourglassStem(nn.Module):
    """Images to the maps, a quarter as high and wide, that the first hourglass gets.

    The first convolution also sees where it is (`coordinates`; STAR, released code).
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_features = WIDTH
        self.first = nn.Sequential(nn.Conv2d(6, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU())
        self.wider = Residual(64, 128)
        self.last = nn.Sequential(Residual(128, 128), Residual(128, WIDTH))

    def forward_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        where = coordinates(*images.shape[-2:], like=images).expand(len(images), -1, -1, -1)
        return self.last(F.max_pool2d(self.wider(self.first(torch.cat([images, where], 1))), 2))
