"""MoLo on Something-Something V2 (Full): trained on 1-shot episodes, tested with 5 shots.

Paper: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946. Published, 5-way, ResNet-50 from ImageNet weights:
70.6 % (5-shot), 56.6 % (1-shot).

The data: `data/ssv2/videos` holds the videos of the dataset's owner under their numbers
(`78687.webm` or .mp4), `data/ssv2/splits` the three official lists. Command:

    python -m molo_jax.main --config=configs/ssv2_5shot.py --workdir=runs/ssv2_5shot
"""

from ml_collections import ConfigDict

from molo_jax.config import base_config

_SPLITS = (
    "https://raw.githubusercontent.com/alibaba-mmai-research/MoLo/"
    "f7f73b6dd8cba446b414b1c47652ab26033bc88e/configs/projects/MoLo/ssv2_full"
)
_VIDEOS = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"


def get_config() -> ConfigDict:
    config = base_config()
    config.seed = 8

    config.dataset.name = "ssv2"
    config.dataset.how_to_get = (
        f"Download the videos of Something-Something V2 from {_VIDEOS} and unpack them into one "
        "folder (--config.data.root); download train_few_shot.txt, val_few_shot.txt and "
        f"test_few_shot.txt from {_SPLITS}/ into another (--config.data.split_dir)."
    )
    config.data.root = "data/ssv2/videos"
    config.data.split_dir = "data/ssv2/splits"
    config.data.resize = 256
    config.data.crop = 224
    config.data.num_frames = 8
    config.data.sampling = "segments"

    config.model.backbone = "resnet50"
    config.model.pretrained = "imagenet"
    config.model.positional_a = 10.0
    config.model.positional_b = 1.0

    config.loss.classification = 0.8
    config.loss.contrast = 0.05
    config.loss.reconstruction = 0.1

    iterations = 50000
    config.train.n_way = 5
    config.train.n_shot = 1
    config.train.n_query = 6
    config.train.episodes_per_step = 16
    config.train.steps = iterations // config.loss.accumulation

    config.optimizer.schedule = "official"
    config.optimizer.base_lr = 1e-4
    config.optimizer.warmup_start_lr = 2e-5
    config.optimizer.steps_iter = 6000
    config.optimizer.boundaries = (0, 6, 9)
    config.optimizer.factors = (1.0, 0.1, 0.01)
    config.optimizer.weight_decay = 1e-3

    config.eval.shots = (5,)
    config.eval.n_way = 5
    config.eval.n_query = 1
    config.eval.episodes = 10000
    return config
