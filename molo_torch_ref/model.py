"""The network: backbone, motion branch with autodecoder, encoders, classifier, matching."""

import torch
from torch import Tensor, nn

from molo_torch_ref.layers import (
    MAX_POSITIONS,
    OutConv,
    PositionalEncoder,
    TemporalEncoder,
    UpBlock,
)
from molo_torch_ref.matching import MATCHINGS, SMOOTHING, match_stream
from molo_torch_ref.resnet import make_backbone
from molo_torch_ref.structures import Output, check_clips

# The motion branch works on one channel for this many of the backbone's.
_REDUCTION = 8
STREAMS = ("both", "appearance", "motion")


class MoLo(nn.Module):
    """MoLo for any number of frames from 2 to 19 and any crop that 32 divides.

    Args:
        num_classes: number of training classes.
        backbone: ``resnet18``, ``resnet34`` or ``resnet50``.
        positional_a, positional_b: A and B of the positional encoding.
        motion_weight: what the motion distance counts beside the appearance distance.
        single_direction: leave out the second sum of Bi-MHM.
        matching: how frames are matched with frames, ``bi_mhm`` or ``otam``.
        smoothing: OTAM's lambda.
        streams: ``both``, or one of ``appearance`` and ``motion`` (the ablation of section 4.3):
            the other then enters neither the logits, where the one counts with weight 1, nor the
            classifier, nor the long-short terms, and has no class token, encoder and scale. The
            decoder of the motion features, an auxiliary task of the backbone, is always there.
        dropout_position, dropout_attention, dropout_feedforward: probabilities.

    Raises:
        ValueError: if ``matching``, ``streams`` or ``backbone`` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        positional_a: float = 10.0,
        positional_b: float = 1.0,
        motion_weight: float = 0.3,
        single_direction: bool = False,
        matching: str = "bi_mhm",
        smoothing: float = SMOOTHING,
        streams: str = "both",
        dropout_position: float = 0.1,
        dropout_attention: float = 0.2,
        dropout_feedforward: float = 0.05,
    ):
        super().__init__()
        _check_choice("matching", matching, MATCHINGS)
        _check_choice("streams", streams, STREAMS)
        self.motion_weight, self.streams = motion_weight, streams
        self.match = single_direction, matching, smoothing
        trunk, width = make_backbone(backbone)
        reduced = width // _REDUCTION
        drops = {"dropout_attention": dropout_attention, "dropout_feedforward": dropout_feedforward}
        appearance, motion = streams != "motion", streams != "appearance"
        # In the order of checkpoints.
        if appearance:
            self.scale = nn.Parameter(torch.ones(1))
        if motion:
            self.scale_motion = nn.Parameter(torch.ones(1))
        if appearance:
            self.class_token = nn.Parameter(torch.randn(1, 1, width))
        if motion:
            self.class_token_motion = nn.Parameter(torch.randn(1, 1, width))
        self.backbone = trunk
        self.pe = PositionalEncoder(width, a=positional_a, b=positional_b, dropout=dropout_position)
        if appearance:
            self.temporal_atte_before = TemporalEncoder(width, **drops)
        if motion:
            self.temporal_atte_before_motion = TemporalEncoder(width, **drops)
        self.motion_reduce = nn.Conv3d(width, reduced, 3, padding=1)
        self.motion_conv = nn.Conv2d(reduced, reduced, 3, padding=1)
        if motion:
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
        check_clips(support, query, least=2, most=MAX_POSITIONS - 1)
        maps_s, maps_q = self._features(support, query)
        difference_s, difference_q = self._differences(maps_s), self._differences(maps_q)
        decoded = self._decode(torch.cat([difference_s, difference_q])) if reconstruct else None
        way = support_labels, n_way, *self.match
        distance, tokens, contrast = 0.0, 0.0, {}
        # The order of the calls is the one in which recorded stages are numbered.
        if self.streams != "appearance":
            lifted_s, lifted_q = self._lifted(difference_s), self._lifted(difference_q)
            moving_q = self._tokens(lifted_q, self.class_token_motion)
            moving_s = self._tokens(lifted_s, self.class_token_motion)
            moving_q = self.temporal_atte_before_motion(moving_q).relu()
            moving_s = self.temporal_atte_before_motion(moving_s).relu()
            frames, s2q, q2s = match_stream(moving_s, moving_q, *way)
            distance = frames * (1.0 if self.streams == "motion" else self.motion_weight)
            tokens = torch.cat([moving_s, moving_q]).mean(1)
            contrast["logits_s2q_motion"] = -self.scale_motion * s2q
            contrast["logits_q2s_motion"] = -self.scale_motion * q2s
        if self.streams != "motion":
            tokens_s = self._tokens(maps_s.mean((3, 4)), self.class_token)
            tokens_q = self._tokens(maps_q.mean((3, 4)), self.class_token)
            tokens_s = self.temporal_atte_before(tokens_s).relu()
            tokens_q = self.temporal_atte_before(tokens_q).relu()
            frames, s2q, q2s = match_stream(tokens_s, tokens_q, *way)
            distance = frames + distance
            tokens = torch.cat([tokens_s, tokens_q]).mean(1) + tokens
            contrast["logits_s2q"] = -self.scale * s2q
            contrast["logits_q2s"] = -self.scale * q2s
        clips = torch.cat([support, query])
        return Output(
            logits=-distance,
            class_logits=self.classification_layer(tokens),
            reconstruction=decoded,
            reconstruction_target=clips[:, 1:] - clips[:, :-1],
            **contrast,
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


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
