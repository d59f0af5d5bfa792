"""The PyTorch side: the training step and the evaluation forward of molo_torch_ref."""

import time
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _episodes import ACCUMULATION, CLASSES, COEFFICIENTS, LEARNING_RATE, random_episodes
from _workers import peak_resident_bytes, processor
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from molo_torch_ref import (
    Coefficients,
    Episode,
    MoLo,
    Output,
    loss_terms,
    make_optimizer,
    total_loss,
    train_step,
)

_COEFFICIENTS = Coefficients(**COEFFICIENTS)


class Benchmark:
    """Computes on the first CUDA device, or on the CPU where there is none."""

    def __init__(self, options: dict[str, Any]):
        # Before anything is computed; without an effect on a CPU. TF32 is for convolutions alone,
        # which is PyTorch's default.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = options["precision"] == "tf32"
        self._options = options
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self._model = MoLo(CLASSES, options["backbone"])
        self._arrays = random_episodes(options)
        self._prepared = False
        self._runs: dict[str, Callable[[], None]] = {}

    def describe(self) -> dict[str, Any]:
        """Version, platform ("cpu" or "gpu"), device and number of parameters."""
        cuda = self._device.type == "cuda"
        return {
            "version": torch.__version__,
            "platform": "gpu" if cuda else "cpu",
            "device": torch.cuda.get_device_name() if cuda else processor(),
            "parameters": sum(p.numel() for p in self._model.parameters()),
        }

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        """Takes over weights and statistics; `pe.pe` is computed and not among them."""
        state = {name: torch.tensor(array) for name, array in tensors.items()}
        self._model.load_state_dict(state | {"pe.pe": self._model.pe.pe}, strict=True)

    def losses(self) -> dict[str, float]:
        """Loss terms and total of the first episode in training mode, without dropout.

        The statistics, which a pass in training mode moves, are put back.
        """
        model = self._ready().train()
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        episode = self._episode(0)
        with torch.no_grad():
            losses = episode_losses(model, episode, self._options["way"])
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
        return {name: value.item() for name, value in losses.items()}

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Match and class logits of the first episode in evaluation mode."""
        output = self._forward(self._ready().eval(), self._episode(0))
        return output.logits.cpu().numpy(), output.class_logits.cpu().numpy()

    def run(self, what: str) -> float:
        """Runs "training" (one step) or "evaluation" (its episodes); returns the seconds."""
        if what not in self._runs:
            make = {"evaluation": self._evaluation, "training": self._training}[what]
            self._runs[what] = make()
        self._wait()
        start = time.perf_counter()
        self._runs[what]()
        self._wait()
        return time.perf_counter() - start

    def peak_memory(self) -> dict[str, Any]:
        """Peak bytes of the accelerator, or of this process where there is none."""
        if self._device.type == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated(), "of": "the accelerator"}
        return {"bytes": peak_resident_bytes(), "of": "the process"}

    def _ready(self) -> MoLo:
        """The model on its device, in its memory format, compiled when it is first called."""
        if not self._prepared:
            self._model.to(self._device)
            if self._options["channels_last"]:
                use_channels_last(self._model)
            if self._options["compile"]:
                self._model.compile()
            self._prepared = True
        return self._model

    def _episode(self, number: int) -> Episode:
        fields = {}
        for name, array in self._arrays.items():
            if name != "index":
                tensor = torch.from_numpy(array[number]).to(self._device)
                # Cross-entropies take int64 alone.
                fields[name] = self._clips(tensor) if tensor.ndim == 5 else tensor.long()
        return Episode(**fields)

    def _clips(self, clips: Tensor) -> Tensor:
        """(v, t, h, w, 3) as (v, t, 3, h, w); seen from there, the memory is channels-last."""
        clips = clips.movedim(-1, 2)
        return clips if self._options["channels_last"] else clips.contiguous()

    @torch.no_grad()
    def _forward(self, model: MoLo, episode: Episode) -> Output:
        sets = episode.support, episode.query, episode.support_labels
        return model(*sets, self._options["way"], reconstruct=False)

    def _evaluation(self) -> Callable[[], None]:
        model = self._ready().eval()
        episodes = [self._episode(number) for number in range(self._options["episodes"])]

        def evaluate():
            for episode in episodes:
                self._forward(model, episode)

        return evaluate

    def _training(self) -> Callable[[], None]:
        model = self._ready().train()
        optimizer = make_optimizer(model, lr=LEARNING_RATE)
        episodes = [self._episode(number) for number in range(self._options["episodes"])]

        def train():
            train_step(
                model,
                optimizer,
                episodes,
                n_way=self._options["way"],
                coefficients=_COEFFICIENTS,
                accumulation=ACCUMULATION,
                lr=LEARNING_RATE,
            )

        return train

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def episode_losses(model: MoLo, episode: Episode, way: int) -> dict[str, Tensor]:
    """Every loss term of an episode, and their weighted sum as an optimizer step minimizes it."""
    output = model(episode.support, episode.query, episode.support_labels, way)
    terms = loss_terms(output, episode)
    return terms | {"total": ACCUMULATION * total_loss(terms, _COEFFICIENTS, ACCUMULATION)}


def use_channels_last(model: nn.Module) -> None:
    """Stores the kernels of all convolutions channels-last, which makes their outputs so too."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def count_flops(options: dict[str, Any]) -> dict[str, int]:
    """Floating-point operations of one episode: "training" (forward, backward), "evaluation".

    Counted are the convolutions and matrix products of the reference, a multiplication and an
    addition as two, from the shapes alone.
    """
    with torch.device("meta"):
        model = MoLo(CLASSES, options["backbone"])
        episode = _shapes(options)
    way, flops = options["way"], {}
    # The choice of a class's shots depends on the labels, which have no values here.
    with unittest.mock.patch("molo_torch_ref.matching.prototypes", _prototypes_by_order):
        with FlopCounterMode(display=False) as counter:
            episode_losses(model.train(), episode, way)["total"].backward()
        flops["training"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(episode.support, episode.query, episode.support_labels, way, False)
        flops["evaluation"] = counter.get_total_flops()
    return flops


def _shapes(options: dict[str, Any]) -> Episode:
    fields = {}
    for name in ("support", "query"):
        each = options["shot"] if name == "support" else options["query"]
        videos, side = options["way"] * each, options["crop"]
        fields[name] = torch.empty(videos, options["frames"], 3, side, side)
        fields[f"{name}_labels"] = torch.empty(videos, dtype=torch.long)
        fields[f"{name}_classes"] = torch.empty(videos, dtype=torch.long)
    return Episode(**fields)


def _prototypes_by_order(tokens: Tensor, labels: Tensor, n_way: int) -> Tensor:
    return tokens.unflatten(0, (n_way, -1)).mean(1)
