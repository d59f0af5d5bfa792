"""The settings of every method: what fixes its computation, and where its network is.

A method is one class here and one module of this package. Its fields are keys of the configuration
(`config.method.<field>`), they are stored in every checkpoint, and a network is rebuilt from them
alone. Nothing here imports JAX, so that a mistake in a setting is said at once.
"""

import dataclasses
import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

# A rule from our dotted module path to the one of the official PyTorch code: a regular expression
# and its replacement.
NameRule = tuple[str, str]
# Names in a legend that several methods have.
_MATCH = "match: distance of query and support"
_CLASSIFIER = "auxiliary classifier"
# In the metadata of a field: see `setting`.
TRAINING_ONLY = "training_only"


def setting(default: Any, *, training_only: bool = False, **limits: Any) -> Any:
    """Declares a field of a method with the values that it may have.

    Args:
        default: the value where the configuration does not set one.
        training_only: whether scores outside training are the same with any value of it, so that
            networks that differ in it alone can be compared.
        limits: `at_least`, `above`, `below` (numbers) or `choices` (a tuple).
    """
    return dataclasses.field(default=default, metadata={TRAINING_ONLY: training_only, **limits})


def dropout(default: float) -> Any:
    """Declares a dropout rate."""
    return setting(default, training_only=True, at_least=0, below=1)


def weight(default: float) -> Any:
    """Declares the weight of a term of the loss."""
    return setting(default, training_only=True, at_least=0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the settings of all methods have in common.

    Attributes:
        num_classes: number of training classes, which an auxiliary classifier tells apart.
        backbone: name of the network of single frames, see :data:`molo_jax.backbones.BACKBONES`.
    """

    # Name of the method on the command line, in checkpoints and in result files.
    method: ClassVar[str] = ""
    # Its name in print.
    title: ClassVar[str] = ""
    # The class of its network, as `module:class`, or the class itself.
    network: ClassVar[Any] = ""
    # Every term of its loss, in the order of reports -> the name in the legend of a plot.
    losses: ClassVar[Mapping[str, str]] = {}
    # The module of its auxiliary classifier; empty where it has none.
    classifier: ClassVar[str] = ""
    # First parts of the names of the tensors in official checkpoints, beside the backbone's: by
    # these the method of a file is recognized.
    official_parts: ClassVar[tuple[str, ...]] = ()
    # Names of its modules in official checkpoints, and of its parameters that belong to no module;
    # those of the backbone are not among them.
    official_modules: ClassVar[tuple[NameRule, ...]] = ()
    # Parameters that belong to no module, by their names there.
    official_bare: ClassVar[tuple[str, ...]] = ()
    # Modules whose buffers there are fixed -> what these hold, for messages.
    official_fixed: ClassVar[Mapping[str, str]] = {}
    # Names of the modules of the official code in the order in which it makes them.
    official_order: ClassVar[tuple[str, ...]] = ()
    # The method whose published settings on a benchmark it is trained with; empty where it has the
    # same training on all. Nothing is published for most on frame features: as HyRSM.
    trained_as: ClassVar[str] = "hyrsm"
    # Keys of the configuration of a benchmark -> their values in its training. The shots are those
    # of the test, and the queries of a class are HyRSM's, where these do not set them.
    training: ClassVar[Mapping[str, Any]] = {}
    # Frames that a clip must have at least, and may have at most (None: no limit).
    least_frames: ClassVar[int] = 1
    most_frames: ClassVar[int | None] = None

    num_classes: int
    backbone: str = "resnet50"

    @classmethod
    def told_by_official(cls, names: Iterable[str]) -> dict[str, Any]:
        """Returns the settings that the names of an official checkpoint's tensors tell.

        Method, backbone and number of classes are not among them.
        """
        return {}

    @property
    def smallest_distance(self) -> float:
        """The negative score of a perfect match.

        The distance of a query to a class is the negative score minus this, so that no distance is
        below 0.
        """
        return 0.0

    def network_class(self) -> type:
        """Returns the class of the network, a `molo_jax.methods.base.Method`."""
        if not isinstance(self.network, str):
            return self.network
        module, _, name = self.network.partition(":")
        return getattr(importlib.import_module(module), name)

    def build(self, rngs: Any) -> Any:
        """Returns the network with random weights."""
        return self.network_class()(self, rngs=rngs)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields and the name of the method, for a checkpoint."""
        return {"method": self.method, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class MoLoSettings(Settings):
    """MoLo: motion-augmented long-short contrastive learning (Wang et al., CVPR 2023)."""

    method = "molo"
    title = "MoLo"
    network = "molo_jax.methods.molo:MoLo"
    losses = {  # noqa: RUF012
        "match": _MATCH,
        "classification": _CLASSIFIER,
        "s2q": "support→query contrast (s2q)",
        "q2s": "query→support contrast (q2s)",
        "s2q_motion": "support→query contrast, motion (s2q_motion)",
        "q2s_motion": "query→support contrast, motion (q2s_motion)",
        "reconstruction": "reconstruction of frame differences",
    }
    classifier = "classifier"
    official_parts = (
        *("scale", "scale_motion", "class_token", "class_token_motion", "pe"),
        *("temporal_atte_before", "temporal_atte_before_motion", "motion_reduce", "motion_conv"),
        *("motion_up", "classification_layer", "up1", "up2", "up3", "outc"),
    )
    official_modules = (
        (r"^contrast_scale$", "scale"),
        (r"^motion_contrast_scale$", "scale_motion"),
        (r"^motion_class_token$", "class_token_motion"),
        (r"^frame_encoder\.(attention|feedforward)\.", r"temporal_atte_before.layers.\1."),
        (r"^motion_encoder\.(attention|feedforward)\.", r"temporal_atte_before_motion.layers.\1."),
        (r"\.layers\.attention\.norm$", ".layers.0.0.norm"),
        (r"\.layers\.attention\.qkv_projection$", ".layers.0.0.fn.to_qkv"),
        (r"\.layers\.attention\.output_projection$", ".layers.0.0.fn.to_out.0"),
        (r"\.layers\.feedforward\.linear1$", ".layers.0.1.net.0"),
        (r"\.layers\.feedforward\.linear2$", ".layers.0.1.net.3"),
        (r"^motion_reduction$", "motion_reduce"),
        (r"^motion_convolution$", "motion_conv"),
        (r"^motion_expansion$", "motion_up"),
        (r"^classifier$", "classification_layer"),
        (r"^motion_decoder\.blocks\.0\.", "up1."),
        (r"^motion_decoder\.blocks\.1\.", "up2."),
        (r"^motion_decoder\.blocks\.2\.", "up3."),
        (r"^(up\d)\.conv$", r"\1.conv.double_conv.0"),
        (r"^(up\d)\.bn$", r"\1.conv.double_conv.1"),
        (r"^motion_decoder\.output$", "outc.conv"),
    )
    official_bare = ("scale", "scale_motion", "class_token", "class_token_motion")
    official_fixed = {"pe": "positional encoding"}  # noqa: RUF012
    official_order = (
        *("pe", "temporal_atte_before", "temporal_atte_before_motion", "motion_reduce"),
        *("motion_conv", "motion_up", "classification_layer", "up1", "up2", "up3", "outc"),
        *("layers", "norm", "fn", "to_qkv", "to_out", "net", "conv", "double_conv"),
    )
    trained_as = "molo"
    # "5-shot" is trained on 1-shot episodes too, and differs in the test alone.
    training = {"train.n_shot": 1, "train.n_query": 6}  # noqa: RUF012
    least_frames = 2
    # The class token takes one of the 20 positions.
    most_frames = 19

    @classmethod
    def told_by_official(cls, names: Iterable[str]) -> dict[str, Any]:
        """Returns which stream there is where the other one's own parameters are all absent."""
        own = {
            "appearance": {"scale", "class_token"},
            "motion": {"scale_motion", "class_token_motion"},
        }
        present = {stream: len(parameters & set(names)) for stream, parameters in own.items()}
        (most, count), (_, other) = sorted(present.items(), key=lambda pair: -pair[1])
        return {"streams": most} if (count, other) == (2, 0) else {}

    # Distance of two sequences of frames: bi_mhm (bidirectional mean Hausdorff, the paper's) or
    # otam (ordered temporal alignment, softened by smoothing).
    matching: str = setting("bi_mhm", choices=("bi_mhm", "otam"))
    smoothing: float = setting(0.1, above=0)
    # Streams that are scored, classified and contrasted: both, appearance or motion.
    streams: str = setting("both", choices=("both", "appearance", "motion"))
    # Positional encoding: tokens * sqrt(width / positional_a) + positional_b * encoding.
    positional_a: float = setting(10.0, above=0)
    positional_b: float = setting(1.0, at_least=0)
    # Weight of the motion distance beside the appearance distance.
    motion_weight: float = setting(0.3, at_least=0)
    # Only the query-to-support half of the bidirectional distance.
    single_direction: bool = setting(False)
    # Dropout rates after the positional encoding, the attention and in the feed-forward.
    dropout_position: float = dropout(0.1)
    dropout_attention: float = dropout(0.2)
    dropout_feedforward: float = dropout(0.05)
    # Weights in the loss of the auxiliary classifier and of the long-short contrast.
    classification: float = weight(0.8)
    contrast: float = weight(0.05)
    # Weight of the reconstruction. Quirk kept: the official code multiplies the value in its files
    # by the episodes that it accumulates before an update, so 0.1 and 4 there are 0.4 here.
    reconstruction: float = weight(0.4)


@dataclasses.dataclass(frozen=True)
class ProtoNetSettings(Settings):
    """Prototypical network on mean frame features (Snell et al., NeurIPS 2017; the TSN head)."""

    method = "protonet"
    title = "ProtoNet"
    network = "molo_jax.methods.protonet:ProtoNet"
    losses = {"match": _MATCH}  # noqa: RUF012

    # Score of a class: the negative squared distance to the mean of its shots, in place of the
    # mean cosine with them.
    euclidean: bool = setting(False)

    @property
    def smallest_distance(self) -> float:
        return 0.0 if self.euclidean else -1.0


@dataclasses.dataclass(frozen=True)
class BiMHMSettings(Settings):
    """Frame features matched by the bidirectional mean Hausdorff metric (MoLo's baseline)."""

    method = "bi_mhm"
    title = "Bi-MHM"
    network = "molo_jax.methods.bi_mhm:BiMHM"
    losses = {"match": _MATCH}  # noqa: RUF012


@dataclasses.dataclass(frozen=True)
class OTAMSettings(Settings):
    """OTAM: ordered temporal alignment of frame features (Cao et al., CVPR 2020)."""

    method = "otam"
    title = "OTAM"
    network = "molo_jax.methods.otam:OTAM"
    losses = {"match": _MATCH}  # noqa: RUF012

    # Lambda of the softened minimum over alignments; the smaller, the closer to the minimum.
    smoothing: float = setting(0.1, above=0)


@dataclasses.dataclass(frozen=True)
class TRXSettings(Settings):
    """TRX: temporal-relational cross-attention of pairs and triples (Perrett et al., CVPR 2021)."""

    method = "trx"
    title = "TRX"
    network = "molo_jax.methods.trx:TRX"
    losses = {"match": _MATCH}  # noqa: RUF012
    official_parts = ("transformers",)
    official_modules = (
        (r"^cross_transformers\.(\d)\.key_projection$", r"transformers.\1.k_linear"),
        (r"^cross_transformers\.(\d)\.value_projection$", r"transformers.\1.v_linear"),
        (r"^cross_transformers\.(\d)\.key_norm$", r"transformers.\1.norm_k"),
        (r"^cross_transformers\.(\d)\.value_norm$", r"transformers.\1.norm_v"),
    )
    official_fixed = {"pe": "positional encoding", "tuples": "tuple of frames"}  # noqa: RUF012
    official_order = (
        *("transformers", "pe", "k_linear", "v_linear", "norm_k", "norm_v", "tuples"),
    )
    trained_as = ""
    # As its own paper trains it (section 4.1).
    training = {  # noqa: RUF012
        "train.n_query": 5,
        "optimizer.name": "sgd",
        "optimizer.weight_decay": 0.0,
        # 0.001 for a loss that is summed over the 25 queries of an episode; here it is their mean.
        "optimizer.base_lr": 0.025,
        "optimizer.warmup_start_lr": 0.025,
        "optimizer.accumulation": 1,
        "optimizer.boundaries": (0,),
        "optimizer.factors": (1.0,),
    }
    # A triple needs three frames; official checkpoints have twelve positions.
    least_frames = 3
    most_frames = 12

    # Frames of a clip, `data.num_frames`. Official checkpoints hold all pairs and triples of their
    # numbers; the network itself takes 3 to 12 frames, whatever this is.
    frames: int = 8
    # Dropout rate after the positional encoding.
    dropout_position: float = dropout(0.1)

    @classmethod
    def told_by_official(cls, names: Iterable[str]) -> dict[str, Any]:
        """Returns the number of frames whose pairs are listed; nothing where that is none."""
        pairs = sum(name.startswith("transformers.0.tuples.") for name in names)
        frames = (1 + math.isqrt(1 + 8 * pairs)) // 2
        listed = pairs > 0 and math.comb(frames, 2) == pairs
        return {"frames": frames} if listed else {}


@dataclasses.dataclass(frozen=True)
class HyRSMSettings(Settings):
    """HyRSM: hybrid relation of the videos of an episode (Wang et al., CVPR 2022)."""

    method = "hyrsm"
    title = "HyRSM"
    network = "molo_jax.methods.hyrsm:HyRSM"
    losses = {"match": _MATCH, "classification": _CLASSIFIER}  # noqa: RUF012
    classifier = "classifier"
    official_parts = (
        *("pe", "temporal_atte_before", "temporal_atte", "layer2", "classification_layer"),
    )
    official_modules = (
        (r"^frame_encoder\.norm$", "temporal_atte_before.norm"),
        (r"^frame_encoder\.qkv_projection$", "temporal_atte_before.fn.to_qkv"),
        (r"^frame_encoder\.output_projection$", "temporal_atte_before.fn.to_out.0"),
        (r"^relation\.query_projection$", "temporal_atte.w_qs"),
        (r"^relation\.key_projection$", "temporal_atte.w_ks"),
        (r"^relation\.value_projection$", "temporal_atte.w_vs"),
        (r"^relation\.norm$", "temporal_atte.layer_norm"),
        (r"^relation\.output_projection$", "temporal_atte.fc"),
        (r"^fusion$", "layer2.0"),
        (r"^classifier$", "classification_layer"),
    )
    official_fixed = {"pe": "positional encoding"}  # noqa: RUF012
    official_order = (
        *("pe", "temporal_atte_before", "temporal_atte", "layer2", "classification_layer"),
        *("w_qs", "w_ks", "w_vs", "layer_norm", "fc"),
        *("norm", "fn", "to_qkv", "to_out"),
    )
    most_frames = 20

    # With several shots: the relation is that of the query and the prototypes of the classes, as in
    # the official "5-shot" head. Otherwise it is that of the query and all support videos, and the
    # distances to the shots of a class are averaged. With one shot both are the same.
    prototypes_first: bool = setting(True)
    # Positional encoding: features * sqrt(width / positional_a) + positional_b * encoding.
    positional_a: float = setting(10.0, above=0)
    positional_b: float = setting(1.0, at_least=0)
    # Dropout rate after the positional encoding.
    dropout_position: float = dropout(0.1)
    # Dropout rate after the attention between the frames of a video.
    dropout_attention: float = dropout(0.2)
    # Dropout rates after the attention between videos, and on the weights of that attention.
    dropout_relation: float = dropout(0.05)
    dropout_relation_weights: float = dropout(0.1)
    # Weight in the loss of the auxiliary classifier of frames.
    classification: float = weight(0.6)


@dataclasses.dataclass(frozen=True)
class HyRSMPlusPlusSettings(HyRSMSettings):
    """HyRSM++: HyRSM with temporal coherence (Wang et al., Pattern Recognition 2024)."""

    method = "hyrsm_pp"
    title = "HyRSM++"
    network = "molo_jax.methods.hyrsm_pp:HyRSMPlusPlus"
    losses = HyRSMSettings.losses | {"temporal": "temporal coherence of the frames of a video"}
    trained_as = "hyrsm_pp"

    # Weight in the loss of the temporal coherence.
    temporal: float = weight(0.3)
    # Frames of a video that are at most so far apart are drawn together, all others pushed apart.
    window: int = setting(1, training_only=True, at_least=0)
    # Sigma squared of the margin 1 - exp(-(frames beyond the window)^2 / balance), up to which the
    # distance of two frames is pushed; the larger, the slower the margin grows with time.
    balance: float = setting(51.0, training_only=True, above=0)
    # What pushing apart counts beside drawing together (beta).
    apart_weight: float = weight(10.0)


# Every method by its name. Where the tensors of an official file are those of several methods, it
# is taken for one of the first.
METHODS: dict[str, type[Settings]] = {
    each.method: each
    for each in (
        MoLoSettings,
        ProtoNetSettings,
        BiMHMSettings,
        OTAMSettings,
        TRXSettings,
        HyRSMSettings,
        HyRSMPlusPlusSettings,
    )
}
DEFAULT_METHOD = MoLoSettings.method
# Fields that the configuration does not set in its section of the method: they follow from the
# data and from other sections.
_ELSEWHERE = ("num_classes", "backbone", "frames")


def settings_class(name: str) -> type[Settings]:
    """Returns the settings of the method called `name`.

    Raises:
        ValueError: there is no such method; the message names those that there are.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def settings_from_json(stored: Mapping[str, Any]) -> Settings:
    """Undoes `Settings.to_json`; a field that a checkpoint does not know has its default.

    Raises:
        ValueError, TypeError, KeyError: what is stored are no settings of a method.
    """
    fields = dict(stored)
    known = settings_class(fields.pop("method", DEFAULT_METHOD))
    return known(**fields)


def own_fields(known: type[Settings]) -> dict[str, dataclasses.Field]:
    """Returns the fields that the configuration has in the method's section, in their order."""
    return {f.name: f for f in dataclasses.fields(known) if f.name not in _ELSEWHERE}
