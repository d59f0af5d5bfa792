"""The files that a training begins with, had before anything slow is imported or opened."""

from pathlib import Path

from ml_collections import ConfigDict

from molo_jax import downloads
from molo_jax.config import IMAGENET, WEIGHT_FILES
from molo_jax.errors import MoloError
from molo_jax.files import check_file

# The folders of checkpoints in a work folder: the newest, and the best on the val split.
LATEST, BEST = "checkpoints", "best"

# torchvision's IMAGENET1K_V1 files: name and SHA-256.
_IMAGENET_URL = "https://download.pytorch.org/models/"
_IMAGENET_FILES = {
    "resnet18": (
        "resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
    "resnet34": (
        "resnet34-b627a593.pth",
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    "resnet50": (
        "resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
}


def check_sources(config: ConfigDict, workdir: Path, *, trains: bool) -> None:
    """Checks that the files are there from which the weights of a run come; downloads ImageNet's.

    To be called before JAX and TensorFlow are imported and the data are opened: that takes a minute
    or more, after which nobody wants to hear that a file is missing.

    Args:
        config: `init_from` and `model.pretrained`.
        workdir: a training that has a checkpoint there begins with no other weights.
        trains: whether the run trains, and does not only evaluate.

    Raises:
        MoloError: when a file is absent, or cannot be downloaded.
    """
    if trains and any(entry.name.isdigit() for entry in (workdir / LATEST).glob("*")):
        return
    if config.init_from:
        path = Path(config.init_from)
        if path.suffix.lower() in WEIGHT_FILES:
            check_file(path, "a PyTorch file")
        elif not path.exists():
            raise MoloError(f"--config.init_from={path} does not exist")
    elif trains and config.model.pretrained == IMAGENET:
        imagenet_file(config.model.backbone)
    elif trains and config.model.pretrained:
        check_file(Path(config.model.pretrained), "a PyTorch file")


def imagenet_file(backbone: str) -> Path:
    """Returns torchvision's `IMAGENET1K_V1` file from the cache; downloads it the first time.

    The cache is `$XDG_CACHE_HOME/molo_jax`, or `~/.cache/molo_jax`.

    Raises:
        MoloError: when it cannot be downloaded (with the address and where to put the file), or
            is not the file that it should be.
    """
    address, path = imagenet_place(backbone)
    return downloads.fetch(
        address,
        path,
        _IMAGENET_FILES[backbone][1],
        otherwise="give its place with --config.model.pretrained=PATH, or begin with random"
        " weights: --config.model.pretrained=",
    )


def imagenet_place(backbone: str) -> tuple[str, Path]:
    """Returns the address of torchvision's `IMAGENET1K_V1` file, and its place in the cache."""
    name = _IMAGENET_FILES[backbone][0]
    return _IMAGENET_URL + name, downloads.cache_folder() / name
