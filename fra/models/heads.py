"""The two-layer heads of BYOL's family: projectors and predictors."""

from jaxtyping import Float
from torch import Tensor, nn


class MLPHead(nn.Module):
    """Linear, batch norm, ReLU, linear; no biases and no norm at the end (supplement 5.1; spec fra.md, section 3).

    Works on the last axis of any tensor; the batch statistics run over all other axes together. With `bias` both
    linear layers have biases and start as torch starts them (SwAV). With `normalised` the output has a batch norm
    without weights of its own.
    """

    def __init__(
        self, channels: int, *, hidden: int = 4096, out: int = 256, bias: bool = False, normalised: bool = False
    ) -> None:
        super().__init__()
        self.first = nn.Linear(channels, hidden, bias=bias)
        self.norm = nn.BatchNorm2d(hidden)  # rows as images of one pixel: torch's loops for those are 2 to 4 x faster
        self.activation = nn.ReLU(inplace=True)
        self.last = nn.Linear(hidden, out, bias=bias)
        self.last_norm = nn.BatchNorm2d(out, affine=False) if normalised else nn.Identity()
        for linear in () if bias else (self.first, self.last):
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... D"]:
        rows = x.reshape(-1, x.shape[-1])
        middle = self.norm(self.first(rows)[:, :, None, None]).flatten(1)
        embeddings = self.last_norm(self.last(self.activation(middle))[:, :, None, None])
        return embeddings.reshape(*x.shape[:-1], -1)
