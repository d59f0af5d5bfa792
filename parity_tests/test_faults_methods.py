"""Plants a fault in one method at a time and shows that a comparison of recordings finds it."""

import dataclasses
import functools

import pytest
import torch
from torch.nn import functional as F

from molo_torch_ref import bi_mhm, hyrsm, losses, matching, protonet, trx
from molo_torch_ref.hyrsm import HyRSM, RelationAttention
from molo_torch_ref.hyrsm_pp import HyRSMPlusPlus
from molo_torch_ref.matching import class_means, cosine_distances, prototypes
from molo_torch_ref.otam import OTAM
from molo_torch_ref.trx import TRX, CrossTransformer, TextbookPositions
from parity_tests import jax_backend, torch_backend
from parity_tests.case import Case
from parity_tests.recording import compare
from parity_tests.tolerances import DOUBLE

COHERENCE = {"prototypes_first": True, "window": 1, "balance": 7.0, "apart_weight": 3.0}
OPTIONS = {"hyrsm": {"prototypes_first": True}, "hyrsm_pp": COHERENCE}
# Drawn values are so large that every softmax saturates, and gradients vanish.
SCALED = tuple((f"transformers.{i}.v_linear.weight", 0.03) for i in range(2))


def _case(method):
    return Case(
        method=method,
        backbone="narrow18",
        way=2,
        shot=2,
        query=1,
        frames=4,
        size=32,
        seed=5,
        options=tuple(OPTIONS.get(method, {}).items()),
        scaled=SCALED if method == "trx" else (),
    )


def _with_default(patch, network, **changed):
    """Gives the arguments of a network another value."""
    init = network.__init__
    patch.setattr(network, "__init__", lambda self, *a, **o: init(self, *a, **{**o, **changed}))


def protonet_compares_with_the_mean_of_the_shots(patch):
    def averaged(query, support):
        # The shots of the episode are of classes 0 and 1, in this order of labels.
        labels = torch.tensor(_case("protonet").episode()["support_labels"])
        return cosine_distances(query, prototypes(support, labels, 2)[labels])

    patch.setattr(protonet, "cosine_distances", averaged)


def protonet_without_epsilon(patch):
    patch.setattr(matching, "_EPSILON", 0.0)


def bi_mhm_with_the_first_shot_alone(patch):
    def first(tokens, labels, n_way):
        return torch.stack([tokens[labels == label][0] for label in range(n_way)])

    patch.setattr(bi_mhm, "prototypes", first)


def bi_mhm_in_one_direction(patch):
    hausdorff = matching.bi_mean_hausdorff
    patch.setattr(bi_mhm, "bi_mean_hausdorff", lambda d: hausdorff(d, True))


def otam_of_another_smoothing(patch):
    _with_default(patch, OTAM, smoothing=0.5)


def otam_in_one_direction(patch):
    patch.setattr(matching, "otam", matching._aligned)


def otam_halves_the_sum(patch):
    otam = matching.otam
    patch.setattr(matching, "otam", lambda *a: otam(*a) / 2)


def otam_softens_the_first_row(patch):
    aligned = matching._aligned

    def softened(distances, smoothing):
        # A row of zeros in front makes the first row one like the others.
        return aligned(F.pad(distances, (0, 0, 1, 0)), smoothing)

    patch.setattr(matching, "_aligned", softened)


def otam_of_prototypes(patch):
    distances = matching.cosine_distances

    def averaged(query, support):
        labels = torch.tensor(_case("otam").episode()["support_labels"])
        return distances(query, prototypes(support, labels, 2)[labels])

    patch.setattr(matching, "cosine_distances", averaged)


def trx_with_a_softmax_for_each_shot(patch):
    softmax = torch.Tensor.softmax

    def apart(self, dim):
        shots = self.unflatten(-1, (2, -1))
        return softmax(shots, dim).flatten(-2) / 2

    patch.setattr(torch.Tensor, "softmax", apart)


def trx_with_the_doubled_exponent(patch):
    init = TextbookPositions.__init__

    def doubled(self, width, frames, dropout):
        init(self, width, frames, dropout)
        position = torch.arange(frames * 3 // 2, dtype=torch.float64)[:, None]
        angle = position / 10000.0 ** (2.0 * torch.arange(width) / width)
        pe = torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
        self.pe = 0.1 * pe[None]

    patch.setattr(TextbookPositions, "__init__", doubled)


def trx_with_whole_positions(patch):
    patch.setattr(trx, "_POSITION_WEIGHT", 1.0)


def trx_of_pairs_alone(patch):
    forward = CrossTransformer.forward

    def pairs(self, *arguments):
        logits = forward(self, *arguments)
        return logits if len(self.tuples[0]) == 2 else logits.detach() * 0

    patch.setattr(CrossTransformer, "forward", pairs)


def trx_without_division_by_the_tuples(patch):
    forward = CrossTransformer.forward
    patch.setattr(
        CrossTransformer, "forward", lambda self, *a: forward(self, *a) * len(self.tuples)
    )


def trx_adds_the_cardinalities(patch):
    forward = TRX.forward

    def added(self, *arguments):
        output = forward(self, *arguments)
        return dataclasses.replace(output, logits=2 * output.logits)

    patch.setattr(TRX, "forward", added)


def trx_normalizes_values(patch):
    init = CrossTransformer.__init__

    def normalizing(self, *arguments):
        init(self, *arguments)
        self.v_linear.register_forward_hook(lambda module, inputs, output: self.norm_v(output))

    patch.setattr(CrossTransformer, "__init__", normalizing)


def hyrsm_averages_distances(patch):
    _with_default(patch, HyRSM, prototypes_first=False)


def hyrsm_averages_the_raw_features(patch):
    features = HyRSM.frame_features

    def averaged(self, support, query):
        support, query = features(self, support, query)
        labels = torch.tensor(_case("hyrsm").episode()["support_labels"])
        return prototypes(support, labels, 2)[labels], query

    patch.setattr(HyRSM, "frame_features", averaged)


def hyrsm_classifies_videos(patch):
    terms = losses.loss_terms

    def by_video(output, episode):
        videos = output.class_logits.unflatten(0, (-1, 4)).mean(1)
        return terms(dataclasses.replace(output, class_logits=videos), episode)

    patch.setattr(torch_backend, "loss_terms", by_video)


def hyrsm_relates_all_queries_at_once(patch):
    def at_once(self, support, query):
        videos = torch.cat([support, query]).mean(1)
        related = self.temporal_atte(videos[None])[0].relu()
        mixed = self._mixed(torch.cat([support, query]), related)
        return mixed[: len(support)].expand(len(query), -1, -1, -1), mixed[len(support) :]

    patch.setattr(HyRSM, "_related", at_once)


def hyrsm_puts_the_relation_in_front(patch):
    def in_front(self, frames, related):
        repeated = related[:, None].expand_as(frames)
        return self.layer2(torch.cat([repeated, frames], -1).transpose(1, 2)).transpose(1, 2)

    patch.setattr(HyRSM, "_mixed", in_front)


def hyrsm_without_residual_around_the_relation(patch):
    forward = RelationAttention.forward

    def swapped(self, x):
        modules = self._modules
        norm = modules.pop("layer_norm")
        self.__dict__["layer_norm"] = lambda y: norm(y - x)
        try:
            return forward(self, x)
        finally:
            del self.__dict__["layer_norm"]
            modules["layer_norm"] = norm

    patch.setattr(RelationAttention, "forward", swapped)


def hyrsm_with_epsilon_in_the_cosine(patch):
    patch.setattr(hyrsm, "_unit", lambda x: x / (x.norm(dim=-1, keepdim=True) + 0.01))


def hyrsm_scores_by_the_sum_over_prototypes(patch):
    patch.setattr(hyrsm, "class_means", lambda *a: class_means(*a) / 4)


def coherence_of_a_wider_window(patch):
    _with_default(patch, HyRSMPlusPlus, window=2)


def coherence_with_sigma_for_its_square(patch):
    _with_default(patch, HyRSMPlusPlus, balance=7.0**0.5)


def coherence_without_weight_of_the_others(patch):
    _with_default(patch, HyRSMPlusPlus, apart_weight=1.0)


def coherence_of_the_query_alone(patch):
    patch.setattr(HyRSMPlusPlus, "_coherence", lambda self, s, q: 2 * self._pairs(q).mean())


def coherence_of_the_first_query_alone(patch):
    coherence = HyRSMPlusPlus._coherence
    patch.setattr(HyRSMPlusPlus, "_coherence", lambda self, s, q: coherence(self, s[:1], q))


FAULTS = (
    ("protonet", protonet_compares_with_the_mean_of_the_shots),
    ("protonet", protonet_without_epsilon),
    ("bi_mhm", bi_mhm_with_the_first_shot_alone),
    ("bi_mhm", bi_mhm_in_one_direction),
    ("otam", otam_of_another_smoothing),
    ("otam", otam_in_one_direction),
    ("otam", otam_halves_the_sum),
    ("otam", otam_softens_the_first_row),
    ("otam", otam_of_prototypes),
    ("trx", trx_with_a_softmax_for_each_shot),
    ("trx", trx_with_the_doubled_exponent),
    ("trx", trx_with_whole_positions),
    ("trx", trx_of_pairs_alone),
    ("trx", trx_without_division_by_the_tuples),
    ("trx", trx_adds_the_cardinalities),
    ("trx", trx_normalizes_values),
    ("hyrsm", hyrsm_averages_distances),
    ("hyrsm", hyrsm_averages_the_raw_features),
    ("hyrsm", hyrsm_classifies_videos),
    ("hyrsm", hyrsm_relates_all_queries_at_once),
    ("hyrsm", hyrsm_puts_the_relation_in_front),
    ("hyrsm", hyrsm_without_residual_around_the_relation),
    ("hyrsm", hyrsm_with_epsilon_in_the_cosine),
    ("hyrsm", hyrsm_scores_by_the_sum_over_prototypes),
    ("hyrsm_pp", coherence_of_a_wider_window),
    ("hyrsm_pp", coherence_with_sigma_for_its_square),
    ("hyrsm_pp", coherence_without_weight_of_the_others),
    ("hyrsm_pp", coherence_of_the_query_alone),
    ("hyrsm_pp", coherence_of_the_first_query_alone),
)


def _in_torch(case):
    return torch_backend.gradients(case, case.weights(), case.episode(), double=True)


@functools.cache
def _in_jax(case):
    return jax_backend.gradients(case, case.weights(), case.episode(), double=True, quick=True)


def _differing(case, groups):
    """What PyTorch computes, with or without a fault, and JAX does not."""
    theirs, ours = (
        {group: recording[group] for group in groups}
        for recording in (_in_torch(case), _in_jax(case))
    )
    return [x.name for x in compare(theirs, ours, DOUBLE, case.names.cancelled) if not x.inside]


VARIANTS = (
    *({"method": method} for method in sorted({method for method, _ in FAULTS})),
    {"method": "molo", "options": (("matching", "otam"),)},
    {"method": "molo", "options": (("streams", "appearance"),)},
    {"method": "molo", "options": (("streams", "motion"),)},
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_both_implementations_are_equal_in_float64(variant):
    case = dataclasses.replace(_case(variant["method"]), **variant)
    groups = ["outputs", "stages", "losses", "gradients", "statistics"]
    if ("streams", "appearance") in case.options:
        # Without the motion stream, the calls of the positional encoder are numbered otherwise.
        groups.remove("stages")
    assert _differing(case, groups) == []
    assert all(loss > 0 for loss in _in_jax(case)["losses"].values())


@pytest.mark.parametrize(("method", "fault"), FAULTS, ids=lambda one: getattr(one, "__name__", one))
def test_a_fault_in_a_method_is_found(monkeypatch, method, fault):
    case = _case(method)
    _in_jax(case)
    fault(monkeypatch)
    # Faults may change what is a stage.
    assert "total" in _differing(case, ("outputs", "losses", "gradients"))
