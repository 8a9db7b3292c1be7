"""From a code to a face, and what tells made faces and codes from real ones: 3FabRec's networks beside its encoder.

Browatzki and Wallraven, 3FabRec (CVPR 2020). B images, Z numbers of a code, S pixels a side, n x n positions of a map.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FIRST = 4
"""Side of the decoder's first map."""
LEAST_SIDE = 4 * FIRST
"""Pixels a side of the smallest face that it makes: one block and the last layer."""


class UpBlock(nn.Module):
    """A residual block that doubles height and width: a transposed and a plain convolution, and a short cut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(_doubling(channels, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.short = nn.Sequential(_doubling(channels, out), nn.BatchNorm2d(out))

    def forward(self, maps: Float[Tensor, "B C n n"]) -> Float[Tensor, "B D m m"]:
        return F.relu(self.last(self.up(maps)) + self.short(maps))


class FaceDecoder(nn.Module):
    """A code to a face of S pixels a side, in [-1, 1] about the encoder's mean colour (3FabRec, Sec. 3.2, code).

    `width` channels at 4 x 4; then blocks of a half, a quarter, and an eighth of them, doubling the side each time to
    half of the face's; a last transposed convolution and a hyperbolic tangent. Raises ValueError for sides that are no
    power of two of at least LEAST_SIDE, and for widths that eight does not divide.
    """

    def __init__(self, code: int, *, side: int, width: int = 512) -> None:
        super().__init__()
        if side < LEAST_SIDE or side & (side - 1):
            raise ValueError(f"faces of {side} px cannot be made: take 16, 32, 64, 128 or 256 px")
        if width % 8:
            raise ValueError(f"a decoder of {width} channels cannot be divided by eight: take a multiple of 8")
        count = int(math.log2(side // FIRST)) - 1
        widths = [width, *(width // min(2 ** (number + 1), 8) for number in range(count))]
        self.side, self.widths = side, widths
        self.code = nn.Linear(code, width)
        self.first = nn.Sequential(
            nn.ConvTranspose2d(width, width, FIRST, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList(UpBlock(before, after) for before, after in pairwise(widths))
        self.last = _doubling(widths[-1], 3)
        initialise(self)

    def start(self, codes: Float[Tensor, "B Z"]) -> Float[Tensor, "B C 4 4"]:
        """The first map."""
        return self.first(self.code(codes)[:, :, None, None])

    def forward(self, codes: Float[Tensor, "B Z"]) -> Float[Tensor, "B 3 S S"]:
        maps = self.start(codes)
        for block in self.blocks:
            maps = block(maps)
        return self.last(maps).tanh()


class CodeCritic(nn.Module):
    """Whether a code is drawn from a normal distribution: the logit of that (3FabRec, code: 1000 units, dropout .2)."""

    def __init__(self, code: int, *, hidden: int = 1000) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(code, hidden),
            nn.Dropout(0.2),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.Dropout(0.2),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, codes: Float[Tensor, "B Z"]) -> Float[Tensor, "B"]:
        return self.layers(codes)[:, 0]


class Discriminator(nn.Module):
    """Whether an image is a real face: the logit of that, a mean over its parts (3FabRec, code).

    Up to five convolutions halve the side, to no less than 4; the first is `width` channels wide, the next twice, four
    and eight times that.
    """

    def __init__(self, *, side: int, width: int = 32) -> None:
        super().__init__()
        count = min(5, int(math.log2(side // FIRST)))
        widths = [3, *(width * min(2**number, 8) for number in range(count))]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if number:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, FIRST, bias=False))
        initialise(self)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B"]:
        return self.layers(images).mean((1, 2, 3))


def initialise(network: nn.Module) -> None:
    """Weights of convolutions normal with variance 2 / (k² * channels out), as in 3FabRec's code."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels)))


def _doubling(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False)
