"""The files that a training begins with, had before anything slow is imported or opened."""

from pathlib import Path

from molo_jax import downloads
from molo_jax.backbones import backbone_info
from molo_jax.errors import MoloError
from molo_jax.files import check_file
from molo_jax.weights.torch_files import is_torch_path

# The folders of checkpoints in a work folder: the newest, and the best on the val split.
LATEST, BEST = "checkpoints", "best"

# What `model.pretrained` may be beside the path of a file.
IMAGENET = "imagenet"
# What a training can do without them.
_TRAINING = (
    "give its place with --config.model.pretrained=PATH, or begin with random weights:"
    " --config.model.pretrained="
)
# The folder of torchvision's IMAGENET1K_V1 files.
_IMAGENET_URL = "https://download.pytorch.org/models/"


def check_sources(
    workdir: Path, *, trains: bool, init_from: str, pretrained: str, backbone: str
) -> None:
    """Checks that the files are there from which the weights of a run come; downloads ImageNet's.

    To be called before JAX and TensorFlow are imported and the data are opened: that takes a minute
    or more, after which nobody wants to hear that a file is missing.

    Args:
        workdir: a training that has a checkpoint there begins with no other weights.
        trains: whether the run trains, and does not only evaluate.
        init_from: weights of a whole network; empty: none.
        pretrained: weights of the backbone, a file or `imagenet`; empty: none.
        backbone: its name.

    Raises:
        MoloError: when a file is absent, or cannot be downloaded.
    """
    if trains and any(entry.name.isdigit() for entry in (workdir / LATEST).glob("*")):
        return
    if init_from:
        path = Path(init_from)
        if is_torch_path(path):
            check_file(path, "a PyTorch file")
        elif not path.exists():
            raise MoloError(f"--config.init_from={path} does not exist")
    elif trains and pretrained == IMAGENET:
        imagenet_file(backbone)
    elif trains and pretrained:
        check_file(Path(pretrained), "a PyTorch file")


def imagenet_file(backbone: str, *, otherwise: str = _TRAINING) -> Path:
    """Returns torchvision's `IMAGENET1K_V1` file from the cache; downloads it the first time.

    The cache is `$XDG_CACHE_HOME/molo_jax`, or `~/.cache/molo_jax`.

    Args:
        backbone: its name.
        otherwise: what a user can do where there is no network, behind "or".

    Raises:
        MoloError: when it cannot be downloaded (with the address and where to put the file), or
            is not the file that it should be.
    """
    address, path = imagenet_place(backbone)
    digest = backbone_info(backbone).weights_digest
    return downloads.fetch(address, path, digest, otherwise=otherwise)


def imagenet_place(backbone: str) -> tuple[str, Path]:
    """Returns the address of torchvision's `IMAGENET1K_V1` file, and its place in the cache."""
    name = backbone_info(backbone).weights_file
    return _IMAGENET_URL + name, downloads.cache_folder() / name
