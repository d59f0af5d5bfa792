"""Plants one fault at a time and shows that the comparison of the other tests finds it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import molo_torch_ref.matching
import molo_torch_ref.model
from molo_torch_ref import training
from molo_torch_ref.layers import FeedForward, PositionalEncoder, Residual, TemporalEncoder
from molo_torch_ref.model import MoLo
from parity_tests import torch_backend
from parity_tests.case import UPDATE
from parity_tests.recording import compare
from parity_tests.tolerances import DOUBLE, DOUBLE_STEPS


def biased_running_variance(patch):
    forward = nn.BatchNorm2d.forward

    def biased(self, x):
        before = self.running_var.clone()
        y = forward(self, x)
        if self.training:
            variance = x.detach().var((0, 2, 3), unbiased=False)
            self.running_var.data.copy_(0.9 * before + 0.1 * variance)
        return y

    patch.setattr(nn.BatchNorm2d, "forward", biased)


def unbiased_normalization(patch):
    forward = nn.BatchNorm2d.forward

    def unbiased(self, x):
        y = forward(self, x)
        count = x.numel() // x.shape[1]
        centered = y - self.bias[:, None, None]
        return centered * ((count - 1) / count) ** 0.5 + self.bias[:, None, None]

    patch.setattr(nn.BatchNorm2d, "forward", unbiased)


def batch_norm_momentum_of_one_hundredth(patch):
    init = nn.BatchNorm2d.__init__
    patch.setattr(nn.BatchNorm2d, "__init__", lambda self, n: init(self, n, momentum=0.01))


def support_and_query_share_statistics(patch):
    def features(self, *sets):
        clips = torch.cat(sets)
        maps = self.backbone(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return list(maps.split([len(one) for one in sets]))

    patch.setattr(MoLo, "_features", features)


def query_before_support(patch):
    features = MoLo._features
    patch.setattr(MoLo, "_features", lambda self, s, q: features(self, q, s)[::-1])


def decoder_normalizes_each_set_by_itself(patch):
    decode = MoLo._decode

    def apart(self, differences):
        return torch.cat([decode(self, one) for one in differences.chunk(2)])

    patch.setattr(MoLo, "_decode", apart)


def tanh_gelu(patch):
    patch.setattr(nn.GELU, "forward", lambda self, x: F.gelu(x, approximate="tanh"))


def layer_norm_epsilon_of_a_millionth(patch):
    init = nn.LayerNorm.__init__
    patch.setattr(nn.LayerNorm, "__init__", lambda self, n: init(self, n, eps=1e-6))


def corners_not_aligned(patch):
    interpolate = F.interpolate

    def unaligned(x, **options):
        return interpolate(x, **options | {"align_corners": False})

    patch.setattr(F, "interpolate", unaligned)


def same_padding(patch):
    forward = nn.Conv2d.forward

    def same(self, x):
        stride, size = self.stride[0], self.kernel_size[0]
        if stride == 1 or size == 1:
            return forward(self, x)
        # What a strided convolution needs so that it gives ceil(h / stride) rows, less in front.
        total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
        return F.conv2d(F.pad(x, (before, after) * 2), self.weight, stride=stride)

    patch.setattr(nn.Conv2d, "forward", same)


def textbook_positional_exponent(patch):
    init = PositionalEncoder.__init__

    def textbook(self, width, **options):
        init(self, width, **options)
        position = torch.arange(20, dtype=torch.float64)[:, None]
        even = torch.arange(width) // 2 * 2
        angle = position / 10000.0 ** (even.double() / width)
        self.pe = torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())[None]

    patch.setattr(PositionalEncoder, "__init__", textbook)


def motion_weight_missing(patch):
    init = MoLo.__init__

    def without(self, *arguments, **options):
        init(self, *arguments, **options, motion_weight=1.0)

    patch.setattr(MoLo, "__init__", without)


def epsilon_outside_the_denominator(patch):
    def outside(query, classes):
        products = torch.einsum("qid,njd->qnij", query, classes)
        norms = torch.einsum("qi,nj->qnij", query.norm(dim=-1), classes.norm(dim=-1))
        return 1.0 - (products / norms + 0.01)

    patch.setattr(molo_torch_ref.matching, "cosine_distances", outside)


def one_direction_of_the_hausdorff_distance(patch):
    hausdorff = molo_torch_ref.matching.bi_mean_hausdorff
    patch.setattr(
        molo_torch_ref.matching, "bi_mean_hausdorff", lambda d, single: hausdorff(d, True)
    )


def prototypes_in_order_of_appearance(patch):
    prototypes = molo_torch_ref.matching.prototypes

    def unsorted(tokens, labels, n_way):
        first = list(dict.fromkeys(labels.tolist()))
        assert first != sorted(first)
        return prototypes(tokens, labels, n_way)[first]

    patch.setattr(molo_torch_ref.matching, "prototypes", unsorted)


def attention_scaled_by_the_whole_width(patch):
    softmax = torch.Tensor.softmax
    patch.setattr(torch.Tensor, "softmax", lambda self, dim: softmax(self / 8**0.5, dim))


def normalization_before_the_feed_forward(patch):
    forward = FeedForward.forward
    patch.setattr(
        FeedForward, "forward", lambda self, x: forward(self, F.layer_norm(x, x.shape[-1:]))
    )


def no_residual_around_attention(patch):
    patch.setattr(Residual, "forward", lambda self, x: self.fn(self.norm(x)))


def class_token_behind_the_frames(patch):
    def behind(self, frames, class_token):
        token = class_token.expand(len(frames), -1, -1)
        return self.pe(torch.cat([frames, token], dim=1))

    patch.setattr(MoLo, "_tokens", behind)


def difference_to_the_wrong_frame(patch):
    def differences(self, maps):
        reduced = self.motion_reduce(maps.transpose(1, 2)).transpose(1, 2)
        convolved = self.motion_conv(reduced.flatten(0, 1)).unflatten(0, reduced.shape[:2])
        return convolved[:, :-1] - reduced[:, 1:]

    patch.setattr(MoLo, "_differences", differences)


def no_relu_on_the_encoders(patch):
    forward = TemporalEncoder.forward

    class Unclipped(torch.Tensor):
        def relu(self):
            return self

    patch.setattr(
        TemporalEncoder, "forward", lambda self, x: forward(self, x).as_subclass(Unclipped)
    )


EPISODE_FAULTS = (
    biased_running_variance,
    unbiased_normalization,
    batch_norm_momentum_of_one_hundredth,
    support_and_query_share_statistics,
    query_before_support,
    decoder_normalizes_each_set_by_itself,
    tanh_gelu,
    layer_norm_epsilon_of_a_millionth,
    corners_not_aligned,
    same_padding,
    textbook_positional_exponent,
    motion_weight_missing,
    epsilon_outside_the_denominator,
    one_direction_of_the_hausdorff_distance,
    prototypes_in_order_of_appearance,
    attention_scaled_by_the_whole_width,
    normalization_before_the_feed_forward,
    no_residual_around_attention,
    class_token_behind_the_frames,
    difference_to_the_wrong_frame,
    no_relu_on_the_encoders,
)


def decoupled_weight_decay(patch):
    def adamw(model, weight_decay):
        groups = training.parameter_groups(model, weight_decay)
        return torch.optim.AdamW(groups, lr=1e-4)

    patch.setattr(torch_backend, "make_optimizer", adamw)


def decay_of_every_parameter(patch):
    def groups(model, weight_decay):
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]

    patch.setattr(training, "parameter_groups", groups)


def no_decay_of_any_normalization(patch):
    def groups(model, weight_decay):
        spared = {
            p
            for m in model.modules()
            if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)
            for p in m.parameters()
        }
        decayed = [p for p in model.parameters() if p not in spared]
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": list(spared), "weight_decay": 0.0},
        ]

    patch.setattr(training, "parameter_groups", groups)


def adam_epsilon_of_a_ten_thousandth(patch):
    adam = torch.optim.Adam
    patch.setattr(torch.optim, "Adam", lambda groups, **o: adam(groups, **o | {"eps": 1e-4}))


def reconstruction_divided_by_the_accumulation(patch):
    total_loss = training.total_loss

    def divided(terms, coefficients, accumulation):
        return total_loss(terms, coefficients, 1) / accumulation

    patch.setattr(training, "total_loss", divided)


def gradients_summed_over_episodes(patch):
    total_loss = training.total_loss

    def summed(terms, coefficients, accumulation):
        return total_loss(terms, coefficients, accumulation) * accumulation

    patch.setattr(training, "total_loss", summed)


STEP_FAULTS = (
    decoupled_weight_decay,
    decay_of_every_parameter,
    no_decay_of_any_normalization,
    adam_epsilon_of_a_ten_thousandth,
    reconstruction_divided_by_the_accumulation,
    gradients_summed_over_episodes,
)


def _outside(ours, reference, bounds):
    """Differences of what both have: a fault that changes the calls must be found in the values."""
    both = [
        {g: {n: a[g][n] for n in a[g] if n in b[g]} for g in b}
        for a, b in ((ours, reference), (reference, ours))
    ]
    return [d for d in compare(*both, bounds) if not d.inside]


def _episode(computed):
    reference = torch_backend.gradients(UPDATE, UPDATE.weights(), UPDATE.episode(), double=True)
    return _outside(computed.training(UPDATE)[0], reference, DOUBLE)


def _steps(computed):
    reference = torch_backend.steps(
        UPDATE, UPDATE.weights(), computed.batches, double=True, **computed.settings
    )
    return _outside(computed.steps(), reference, DOUBLE_STEPS)


def test_nothing_is_found_without_a_fault(computed):
    assert _episode(computed) == []
    assert _steps(computed) == []


@pytest.mark.parametrize("fault", EPISODE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_network_is_found(computed, monkeypatch, fault):
    fault(monkeypatch)
    assert _episode(computed) != []


@pytest.mark.parametrize("fault", STEP_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_update_is_found(computed, monkeypatch, fault):
    fault(monkeypatch)
    assert _steps(computed) != []


def test_a_difference_that_is_no_number_is_outside():
    reference = {"losses": {"total": torch.tensor(1.0).numpy()}}
    ours = {"losses": {"total": torch.tensor(float("nan")).numpy()}}
    assert len(_outside(ours, reference, DOUBLE)) == 1


def test_a_missing_quantity_is_no_silent_success():
    recording = torch_backend.forward(UPDATE, UPDATE.weights(), UPDATE.episode(), train=False)
    partial = recording | {"stages": dict(list(recording["stages"].items())[1:])}
    with pytest.raises(ValueError, match="only in the second"):
        compare(partial, recording, DOUBLE)
