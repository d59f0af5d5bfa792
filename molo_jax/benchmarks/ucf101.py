"""UCF101."""

import dataclasses

from molo_jax.benchmarks.record import (
    HALVES,
    TENTHS,
    Benchmark,
    ListSize,
    OfficialList,
    PublishedTraining,
)

_HYRSM = PublishedTraining(
    base_lr=5e-5,
    warmup_start_lr=1e-5,
    steps_iter=700,
    boundaries=(0, 3, 5, 7),
    factors=HALVES,
    iterations=2500,
    settings={"classification": 0.15},
)
UCF101 = Benchmark(
    name="ucf101",
    title="UCF101",
    list_folder="ucf101",
    videos="https://www.crcv.ucf.edu/data/UCF101.php",
    layout="videos/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    root="data/ucf101/videos",
    lists={
        "train": OfficialList(
            ListSize(9154, 70, 100),
            "faeb4941e197fc6cefb603f7c277dffa854a5dac74a3ad11ce6955441751c3d5",
        ),
        "val": OfficialList(
            ListSize(1421, 10, 114),
            "aec8242d1f0af0da107eac5fd7be699f639bcb04078dcbb445fbe7bc8500acbd",
        ),
        "test": OfficialList(
            ListSize(2745, 21, 109),
            "160ae01885fb33b435e6312234e722f56c1016f2fe34a63c364c29ea4556c957",
        ),
    },
    seed=18,
    trainings={
        "molo": PublishedTraining(
            base_lr=5e-5,
            warmup_start_lr=1e-5,
            steps_iter=2000,
            boundaries=(0, 3, 6),
            factors=TENTHS,
            iterations=6000,
            settings={"classification": 0.6, "reconstruction": 4 * 0.05},
        ),
        "hyrsm": _HYRSM,
        # The schedule is that of HyRSM.
        "hyrsm_pp": dataclasses.replace(
            _HYRSM,
            settings={
                "classification": 0.6,
                "window": 3,
                "temporal": 0.1,
                "balance": 23,
                "apart_weight": 10,
            },
        ),
    },
)
