"""Something-Something V2 with 100 videos a class."""

import dataclasses

from molo_jax.benchmarks.record import TENTHS, Benchmark, ListSize, OfficialList, PublishedTraining
from molo_jax.benchmarks.ssv2 import SSV2

_HYRSM = PublishedTraining(
    base_lr=1e-4,
    warmup_start_lr=2e-5,
    steps_iter=1500,
    boundaries=(0, 4, 8),
    factors=TENTHS,
    iterations=20000,
    settings={"classification": 0.15},
)
SSV2_SMALL = Benchmark(
    name="ssv2_small",
    title=SSV2.title,
    list_folder="ssv2_small",
    videos=SSV2.videos,
    layout="51958 (.webm or .mp4)",
    # The two benchmarks have the same videos.
    root=SSV2.root,
    lists={
        "train": OfficialList(
            ListSize(6400, 64, 100),
            "724c01ee6595639d0829874e503936596de6564f7bf4293cf332b0f7891e0696",
        ),
        "val": OfficialList(
            ListSize(1200, 12, 100),
            "7b0162b14e42186122677eba5679b7b133017c46fbbfa8638682675aad9f4c0a",
        ),
        "test": OfficialList(
            ListSize(2400, 24, 100),
            "e8b4b69302bd85522fffdaebedd212557a8088e76df6dfcc76a82ac953fe739a",
        ),
    },
    seed=18,
    trainings={
        "molo": PublishedTraining(
            base_lr=1e-4,
            warmup_start_lr=2e-5,
            steps_iter=1500,
            boundaries=(0, 4, 8),
            factors=TENTHS,
            iterations=20000,
            settings={"classification": 0.15, "reconstruction": 4 * 0.05},
        ),
        "hyrsm": _HYRSM,
        # The schedule is that of HyRSM.
        "hyrsm_pp": dataclasses.replace(
            _HYRSM,
            settings={
                "classification": 0.2,
                "window": 3,
                "temporal": 0.3,
                "balance": 23,
                "apart_weight": 10,
            },
        ),
    },
)
