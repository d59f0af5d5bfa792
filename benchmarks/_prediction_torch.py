"""A first prediction with PyTorch and decord: `WEIGHTS BACKBONE SUPPORT QUERY`."""

import sys
import time

BEGIN = time.perf_counter()


def main(weights: str, backbone: str, support: str, query: str) -> None:
    """Predicts one clip, and prints where the seconds went."""
    from pathlib import Path

    import decord
    import torch

    from molo_torch_ref import pixels
    from molo_torch_ref.checkpoint import load_official
    from molo_torch_ref.model import MoLo

    marks = [("start", time.perf_counter())]
    torch.manual_seed(0)
    model = MoLo(64, backbone).eval()
    load_official(model, weights)
    marks.append(("weights", time.perf_counter()))

    def clip(path: Path) -> torch.Tensor:
        reader = decord.VideoReader(str(path), num_threads=1)
        numbers = [int((k + 0.5) * len(reader) / 8) for k in range(8)]
        frames = torch.from_numpy(reader.get_batch(numbers).asnumpy()).permute(0, 3, 1, 2).float()
        size = pixels.RESIZE, pixels.RESIZE
        frames = torch.nn.functional.interpolate(frames, size, mode="bilinear")
        first = (pixels.RESIZE - 224) // 2
        frames = frames[:, :, first : first + 224, first : first + 224] / 255
        return (frames - pixels.MEAN) / pixels.STD

    folders = sorted(Path(support).iterdir())
    paths = [(k, path) for k, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    labels = torch.tensor([k for k, _ in paths])
    clips = torch.stack([clip(path) for _, path in paths])
    asked = clip(Path(query))[None]
    marks.append(("clips", time.perf_counter()))
    with torch.inference_mode():
        scores = model(clips, asked, labels, len(folders), reconstruct=False).logits
    predicted = folders[int(scores.argmax())].name
    marks.append(("prediction", time.perf_counter()))
    times = [BEGIN, *(mark for _, mark in marks)]
    parts = [f"{n} {b - a:.1f}" for (n, _), a, b in zip(marks, times, times[1:], strict=False)]
    print(f"{', '.join(parts)}: {predicted}")


if __name__ == "__main__":
    main(*sys.argv[1:])
