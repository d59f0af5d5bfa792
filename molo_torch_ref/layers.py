"""The temporal encoders and the decoder of the motion branch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Longest token sequence that the positional encoding covers.
MAX_POSITIONS = 20
_HEADS = 8
# Width of the feed-forward layer, whatever the feature width is.
_HIDDEN = 2048


class PositionalEncoder(nn.Module):
    """``Drop(x sqrt(d / a) + b pe)`` for tokens ``(v, l, d)``.

    Quirk kept: the exponent doubles the channel index; Vaswani et al. (2017, section 3.5) have
    ``i / d``.
    """

    def __init__(self, width: int, *, a: float, b: float, dropout: float):
        super().__init__()
        position = torch.arange(MAX_POSITIONS, dtype=torch.float64)[:, None]
        channel = torch.arange(width, dtype=torch.float64)
        angle = position / 10000.0 ** (2.0 * channel / width)
        pe = torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
        self.register_buffer("pe", pe.float()[None])
        self.gain, self.b = (width / a) ** 0.5, b
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x * self.gain + self.b * self.pe[:, : x.shape[1]])


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of each video."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        v, length, width = x.shape
        qkv = self.to_qkv(x).reshape(v, length, 3, _HEADS, width // _HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * (width // _HEADS) ** -0.5).softmax(-1)
        return self.to_out((weights @ value).transpose(1, 2).reshape(v, length, width))


class Residual(nn.Module):
    """``x + fn(LayerNorm(x))``."""

    def __init__(self, width: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


class FeedForward(nn.Module):
    """Two linear maps with the exact GELU between them, without residual.

    Quirk kept: no layer normalization before it.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, _HIDDEN),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(_HIDDEN, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TemporalEncoder(nn.Module):
    """One transformer layer; its ReLU is applied by the caller."""

    def __init__(self, width: int, *, dropout_attention: float, dropout_feedforward: float):
        super().__init__()
        attention = Residual(width, Attention(width, dropout_attention))
        feedforward = FeedForward(width, dropout_feedforward)
        self.layers = nn.ModuleList([nn.ModuleList([attention, feedforward])])

    def forward(self, x: Tensor) -> Tensor:
        for attention, feedforward in self.layers:
            x = attention(x)
            x = x + feedforward(x)
        return x


class DoubleConv(nn.Module):
    """3x3 convolution, batch normalization, ReLU (one of each; the name is that of checkpoints)."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels, features, 3, padding=1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class UpBlock(nn.Module):
    """Bilinear upsampling with aligned corners, then :class:`DoubleConv`."""

    def __init__(self, channels: int, features: int, factor: int):
        super().__init__()
        self.factor = factor
        self.conv = DoubleConv(channels, features)

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=True)
        return self.conv(up)


class OutConv(nn.Module):
    """1x1 convolution to pixels."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
