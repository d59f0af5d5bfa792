"""MoLo on one's own videos: a folder for each class.

Paper: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946. There is no published accuracy; chance is one divided by
`eval.n_way`.

`DIR/<class>/*.mp4`, or `DIR/{train,val,test}/<class>/…`. The settings are those of the small
benchmarks, for some thousand videos. Every split needs at least as many classes as an episode
(`n_way`, so 15 for the three splits), and every class the videos of an episode: 7 in train, 2 in
val, 6 in test. The first command says what is lacking before it decodes anything. Commands:

    python -m molo_jax.prepare --dataset=folder --videos=DIR --out=data/prepared
    python -m molo_jax.main --config=configs/folder.py --workdir=runs/folder
"""

from ml_collections import ConfigDict

from molo_jax.config import base_config, with_settings
from molo_jax.methods.settings import DEFAULT_METHOD
from molo_jax.weights.imagenet import IMAGENET


def get_config(method: str = DEFAULT_METHOD) -> ConfigDict:
    config = base_config(method)

    config.dataset.name = "folder"
    config.data.source, config.data.prepared = "prepared", "data/prepared"
    # Without preparation: the videos, and the lists that the preparation has written.
    config.data.root, config.data.split_dir = "data/videos", "data/prepared/splits/folder"

    config.model.backbone = "resnet50"
    config.model.pretrained = IMAGENET

    # As in the official settings of HMDB51, the smallest benchmark.
    with_settings(config, classification=0.4, contrast=0.05, reconstruction=0.2)
    config.train.steps = 500
    config.train.eval_every = 100
    config.optimizer.schedule = "official"
    config.optimizer.base_lr = 5e-5
    config.optimizer.warmup_start_lr = 1e-5
    config.optimizer.steps_iter = 500
    config.optimizer.boundaries = (0, 3, 5, 7)
    config.optimizer.factors = (1.0, 0.5, 0.1, 0.01)

    config.eval.shots = (1, 5)
    # A video is decoded and embedded once, however many episodes it is in.
    config.eval.frame_draw = "video"
    return config
