"""MoLo on the generated dataset of motion classes, on a CPU, in minutes.

Paper: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946.

Command, after `python -m molo_jax.prepare --dataset=synthetic --out=runs/demo/data`:

    python -m molo_jax.main --config=configs/synthetic.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from molo_jax.config import base_config, with_settings
from molo_jax.methods.settings import DEFAULT_METHOD


def get_config(method: str = DEFAULT_METHOD) -> ConfigDict:
    config = base_config(method)
    config.seed = 0

    config.dataset.name = "synthetic"
    config.dataset.how_to_get = (
        "python -m molo_jax.prepare --dataset=synthetic --out=runs/demo/data makes the videos."
    )
    config.data.source, config.data.prepared = "prepared", "runs/demo/data"
    # Without preparation.
    config.data.root = "runs/demo/data/videos"
    config.data.split_dir = "runs/demo/data/splits"
    config.data.resize = 32
    config.data.crop = 32
    config.data.on_bad_video = "fail"

    config.model.backbone = "resnet18"
    # Of these a method takes the ones that it has.
    with_settings(
        config,
        # A = width: tokens enter the encoder unscaled, which trains faster from random weights.
        positional_a=512.0,
        # The network underfits in the few minutes it has.
        dropout_position=0.0,
        dropout_attention=0.0,
        dropout_feedforward=0.0,
        dropout_relation=0.0,
        dropout_relation_weights=0.0,
        classification=1.0,
        contrast=0.05,
        # Decoding the change of every pixel teaches the backbone where things are: with 0.4 the
        # accuracy takes a third more episodes to leave chance.
        reconstruction=16.0,
    )

    # A flip would turn a movement to the left into one to the right, which is another class.
    config.augment.flip = 0.0
    # Colors are random in the videos already.
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0
    config.augment.gray = 0.0

    config.train.n_query = 1
    config.train.steps = 1200
    config.train.episodes_per_step = 1
    config.train.log_every = 20
    config.train.eval_every = 200
    config.train.checkpoint_every = 200
    config.train.val_episodes = 400

    config.optimizer.schedule = "cosine"
    config.optimizer.base_lr = 5e-4
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.0

    config.eval.episodes = 1000
    config.eval.frame_draw = "video"
    config.eval.controls = ("untrained", "static")
    return config
