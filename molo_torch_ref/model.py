"""The network: backbone, motion branch with autodecoder, encoders, classifier, matching."""

import dataclasses

import torch
from torch import Tensor, nn

from molo_torch_ref.layers import (
    MAX_POSITIONS,
    OutConv,
    PositionalEncoder,
    TemporalEncoder,
    UpBlock,
)
from molo_torch_ref.matching import match_stream
from molo_torch_ref.resnet import make_backbone

# The motion branch works on one channel for this many of the backbone's.
_REDUCTION = 8
_STRIDE = 32


@dataclasses.dataclass(frozen=True)
class Episode:
    """One few-shot task with its normalized pixels.

    Attributes:
        support, query: clips ``(s, t, 3, h, w)`` and ``(q, t, 3, h, w)``.
        support_labels, query_labels: class within the episode, ``0 .. n_way - 1``.
        support_classes, query_classes: index of the training class.
    """

    support: Tensor
    query: Tensor
    support_labels: Tensor
    query_labels: Tensor
    support_classes: Tensor
    query_classes: Tensor


@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass computes; scores are ``(q, n)``.

    Attributes:
        logits: negative distances, appearance plus weighted motion: predictions come from these.
        logits_s2q, logits_q2s, logits_s2q_motion, logits_q2s_motion: negative long-short distances.
        class_logits: scores of the training classes, support then query ``(s + q, k)``.
        reconstruction: decoded frame differences, support then query ``(s + q, t - 1, 3, h, w)``;
            ``None`` where it was not asked for.
        reconstruction_target: differences of consecutive frames, in the same order.
    """

    logits: Tensor
    logits_s2q: Tensor
    logits_q2s: Tensor
    logits_s2q_motion: Tensor
    logits_q2s_motion: Tensor
    class_logits: Tensor
    reconstruction: Tensor | None
    reconstruction_target: Tensor


class MoLo(nn.Module):
    """MoLo for any number of frames from 2 to 19 and any crop that 32 divides."""

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        positional_a: float = 10.0,
        positional_b: float = 1.0,
        motion_weight: float = 0.3,
        single_direction: bool = False,
        dropout_position: float = 0.1,
        dropout_attention: float = 0.2,
        dropout_feedforward: float = 0.05,
    ):
        super().__init__()
        self.motion_weight, self.single_direction = motion_weight, single_direction
        trunk, width = make_backbone(backbone)
        reduced = width // _REDUCTION
        drops = {"dropout_attention": dropout_attention, "dropout_feedforward": dropout_feedforward}
        self.scale = nn.Parameter(torch.ones(1))
        self.scale_motion = nn.Parameter(torch.ones(1))
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.class_token_motion = nn.Parameter(torch.randn(1, 1, width))
        self.backbone = trunk
        self.pe = PositionalEncoder(width, a=positional_a, b=positional_b, dropout=dropout_position)
        self.temporal_atte_before = TemporalEncoder(width, **drops)
        self.temporal_atte_before_motion = TemporalEncoder(width, **drops)
        self.motion_reduce = nn.Conv3d(width, reduced, 3, padding=1)
        self.motion_conv = nn.Conv2d(reduced, reduced, 3, padding=1)
        self.motion_up = nn.Conv2d(reduced, width, 1)
        self.classification_layer = nn.Linear(width, num_classes)
        self.up1 = UpBlock(reduced, 128, 2)
        self.up2 = UpBlock(128, 32, 4)
        self.up3 = UpBlock(32, 16, 4)
        self.outc = OutConv(16, 3)

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        support_labels: Tensor,
        n_way: int,
        reconstruct: bool = True,
    ) -> Output:
        """Runs one episode.

        Args:
            support: normalized clips ``(s, t, 3, h, w)``.
            query: normalized clips ``(q, t, 3, h, w)``.
            support_labels: class of each support clip, ``0 .. n_way - 1``.
            n_way: number of classes.
            reconstruct: whether to run the autodecoder.

        Raises:
            ValueError: if the clips do not have the shape of clips.
        """
        _check(support, query)
        maps_s, maps_q = self._features(support, query)
        difference_s, difference_q = self._differences(maps_s), self._differences(maps_q)
        decoded = self._decode(torch.cat([difference_s, difference_q])) if reconstruct else None
        lifted_s, lifted_q = self._lifted(difference_s), self._lifted(difference_q)
        # The order of the calls is the one in which recorded stages are numbered.
        moving_q = self._tokens(lifted_q, self.class_token_motion)
        moving_s = self._tokens(lifted_s, self.class_token_motion)
        moving_q = self.temporal_atte_before_motion(moving_q).relu()
        moving_s = self.temporal_atte_before_motion(moving_s).relu()
        tokens_s = self._tokens(maps_s.mean((3, 4)), self.class_token)
        tokens_q = self._tokens(maps_q.mean((3, 4)), self.class_token)
        tokens_s = self.temporal_atte_before(tokens_s).relu()
        tokens_q = self.temporal_atte_before(tokens_q).relu()
        way = support_labels, n_way, self.single_direction
        frames, s2q, q2s = match_stream(tokens_s, tokens_q, *way)
        frames_m, s2q_m, q2s_m = match_stream(moving_s, moving_q, *way)
        tokens, moving = torch.cat([tokens_s, tokens_q]), torch.cat([moving_s, moving_q])
        clips = torch.cat([support, query])
        return Output(
            logits=-(frames + self.motion_weight * frames_m),
            logits_s2q=-self.scale * s2q,
            logits_q2s=-self.scale * q2s,
            logits_s2q_motion=-self.scale_motion * s2q_m,
            logits_q2s_motion=-self.scale_motion * q2s_m,
            class_logits=self.classification_layer(tokens.mean(1) + moving.mean(1)),
            reconstruction=decoded,
            reconstruction_target=clips[:, 1:] - clips[:, :-1],
        )

    def _features(self, *sets: Tensor) -> list[Tensor]:
        """Backbone maps ``(v, t, d, h', w')`` of each set.

        Every set has a call of its own, and with it its own batch statistics in training.
        """
        return [self.backbone(c.flatten(0, 1)).unflatten(0, c.shape[:2]) for c in sets]

    def _differences(self, maps: Tensor) -> Tensor:
        """``d[t] = conv(r)[t + 1] - r[t]`` of the reduced maps: ``(v, t - 1, m, h', w')``."""
        reduced = self.motion_reduce(maps.transpose(1, 2)).transpose(1, 2)
        convolved = self.motion_conv(reduced.flatten(0, 1)).unflatten(0, reduced.shape[:2])
        return convolved[:, 1:] - reduced[:, :-1]

    def _lifted(self, differences: Tensor) -> Tensor:
        """Pooled motion features of the difference maps ``(v, t - 1, d)``."""
        lifted = self.motion_up(differences.flatten(0, 1)).relu().mean((2, 3))
        return lifted.unflatten(0, differences.shape[:2])

    def _tokens(self, frames: Tensor, class_token: Tensor) -> Tensor:
        return self.pe(torch.cat([class_token.expand(len(frames), -1, -1), frames], dim=1))

    def _decode(self, differences: Tensor) -> Tensor:
        """Decodes the differences of all videos, in one batch, to differences of pixels."""
        x = self.up3(self.up2(self.up1(differences.flatten(0, 1))))
        return self.outc(x).unflatten(0, differences.shape[:2])


def _check(support: Tensor, query: Tensor) -> None:
    for name, clips in (("support", support), ("query", query)):
        shape = tuple(clips.shape)
        if len(shape) != 5 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"{name} clips have shape {shape}; expected (videos, frames, 3, h, w)")
        if not 2 <= shape[1] < MAX_POSITIONS:
            raise ValueError(f"{name} clips have {shape[1]} frames; expected 2 to 19")
        if shape[3] % _STRIDE or shape[4] % _STRIDE:
            raise ValueError(f"{name} clips are {shape[3]}x{shape[4]}; expected multiples of 32")
    if support.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"support clips are {tuple(support.shape[1:])}, query clips {tuple(query.shape[1:])};"
            " expected the same"
        )
