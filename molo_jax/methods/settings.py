"""The settings of every method: what fixes its computation, and where its network is.

A method is one class here and one module of this package. Its fields are keys of the configuration
(`config.method.<field>`), they are stored in every checkpoint, and a network is rebuilt from them
alone. Nothing here imports JAX, so that a mistake in a setting is said at once.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

# A rule from our dotted module path to the one of the official PyTorch code: a regular expression
# and its replacement.
NameRule = tuple[str, str]
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
    # Names of its modules in official checkpoints; those of the backbone are not among them.
    official_modules: ClassVar[tuple[NameRule, ...]] = ()
    # Parameters that belong to no module and have the same name there.
    official_bare: ClassVar[tuple[str, ...]] = ()
    # Names of the modules of the official code in the order in which it makes them.
    official_order: ClassVar[tuple[str, ...]] = ()
    # Frames that a clip must have at least, and may have at most (None: no limit).
    least_frames: ClassVar[int] = 1
    most_frames: ClassVar[int | None] = None

    num_classes: int
    backbone: str = "resnet50"

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
        "match": "match: distance of query and support",
        "classification": "auxiliary classifier",
        "s2q": "support→query contrast (s2q)",
        "q2s": "query→support contrast (q2s)",
        "s2q_motion": "support→query contrast, motion (s2q_motion)",
        "q2s_motion": "query→support contrast, motion (q2s_motion)",
        "reconstruction": "reconstruction of frame differences",
    }
    classifier = "classification_layer"
    official_parts = (
        *("scale", "scale_motion", "class_token", "class_token_motion", "pe"),
        *("temporal_atte_before", "temporal_atte_before_motion", "motion_reduce", "motion_conv"),
        *("motion_up", "classification_layer", "up1", "up2", "up3", "outc"),
    )
    official_modules = (
        (r"^(temporal_atte_before(?:_motion)?)\.attention\.norm$", r"\1.layers.0.0.norm"),
        (r"^(temporal_atte_before(?:_motion)?)\.attention\.to_qkv$", r"\1.layers.0.0.fn.to_qkv"),
        (r"^(temporal_atte_before(?:_motion)?)\.attention\.to_out$", r"\1.layers.0.0.fn.to_out.0"),
        (r"^(temporal_atte_before(?:_motion)?)\.feedforward\.linear1$", r"\1.layers.0.1.net.0"),
        (r"^(temporal_atte_before(?:_motion)?)\.feedforward\.linear2$", r"\1.layers.0.1.net.3"),
        (r"^(up\d)\.conv$", r"\1.conv.double_conv.0"),
        (r"^(up\d)\.bn$", r"\1.conv.double_conv.1"),
        (r"^outc$", "outc.conv"),
    )
    official_bare = ("scale", "scale_motion", "class_token", "class_token_motion")
    official_order = (
        *("pe", "temporal_atte_before", "temporal_atte_before_motion", "motion_reduce"),
        *("motion_conv", "motion_up", "classification_layer", "up1", "up2", "up3", "outc"),
        *("layers", "norm", "fn", "to_qkv", "to_out", "net", "conv", "double_conv"),
    )
    least_frames = 2
    # The class token takes one of the 20 positions.
    most_frames = 19

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


# Every method by its name.
METHODS: dict[str, type[Settings]] = {each.method: each for each in (MoLoSettings,)}
DEFAULT_METHOD = MoLoSettings.method
# Fields that the configuration does not set in its section of the method.
_ELSEWHERE = ("num_classes", "backbone")


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
    """Returns the fields that a method has for itself, in their order."""
    return {f.name: f for f in dataclasses.fields(known) if f.name not in _ELSEWHERE}
