"""The PyTorch side: the training step and the evaluation forward of molo_torch_ref."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _episodes import ACCUMULATION, CLASSES, COEFFICIENTS, LEARNING_RATE, random_episodes
from _workers import peak_resident_bytes, processor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from molo_jax.errors import MoloError
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
from molo_torch_ref.resnet import BasicBlock, Bottleneck

_COEFFICIENTS = Coefficients(**COEFFICIENTS)


class Benchmark:
    """Computes on the first CUDA device, or on the CPU where there is none.

    Args:
        options: the sizes, the `precision` of JAX, and each switch of a variant.

    Raises:
        MoloError: the network is to be compiled, and this machine cannot do that.
    """

    def __init__(self, options: dict[str, Any]):
        # Before anything is computed; without an effect on a CPU. TF32 is for convolutions alone,
        # which is PyTorch's default.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = options["precision"] != "float32"
        self._options = options
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if options["compile"]:
            check_compiler(self._device)
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
            if self._options["checkpoint"]:
                use_checkpoints(self._model)
            if self._options["autocast"]:
                use_autocast(self._model, self._device.type)
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


def use_autocast(model: nn.Module, device: str) -> None:
    """Computes the forward pass in bf16 where PyTorch's autocast does; the losses in float32."""
    plain = model.forward

    def forward(*arguments: Any, **named: Any) -> Output:
        with torch.autocast(device, dtype=torch.bfloat16):
            output = plain(*arguments, **named)
        values = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
        return Output(**{name: x if x is None else x.float() for name, x in values.items()})

    model.forward = forward


def use_checkpoints(model: nn.Module) -> None:
    """Keeps the inputs alone of every residual block of the backbone, and computes it again."""
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            _use_checkpoint(module)


def _use_checkpoint(block: nn.Module) -> None:
    plain = block.forward

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(x)

        # A compiler moves the statistics once, and knows no contexts.
        if torch.compiler.is_compiling():
            return checkpoint(plain, x, use_reentrant=False)

        def contexts():
            return contextlib.nullcontext(), _without_statistics(block)

        return checkpoint(plain, x, use_reentrant=False, context_fn=contexts)

    block.forward = forward


@contextlib.contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps the running statistics, which the first computation has moved already, as they are."""
    norms = [each for each in block.modules() if isinstance(each, nn.BatchNorm2d)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def check_compiler(device: torch.device) -> None:
    """Compiles a function of one operation.

    Raises:
        MoloError: torch.compile does not work here; on a CPU it needs a C++ compiler, on a GPU
            triton and a C compiler.
    """
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    # Whatever the compilers raise.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        remedy = "triton and gcc" if device.type == "cuda" else "g++"
        raise MoloError(
            f"torch.compile does not work on this machine ({reason[:200]}); install {remedy}, or"
            " measure without the switch compile of PyTorch"
        ) from error
