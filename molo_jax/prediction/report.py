"""A page that shows predictions and why they came out so: one HTML file without a network."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from molo_jax.files import replacing, written
from molo_jax.prediction.explanation import ClassMatch, Explanation
from molo_jax.prediction.pictures import Pictures

# Characters that the pictures of a page may have: about 400 clips of 8 frames.
MOST_PICTURE_BYTES = 24 * 2**20
# A chart of distances shows so many classes, the nearest ones.
_MOST_CLASSES = 12
# A table of classes by classes is shown up to so many.
_MOST_CONFUSED = 40
_TEMPLATES = "templates"


def write_report(
    path: str | os.PathLike[str],
    classifier: Any,
    predictions: Sequence[Any],
    explanations: Sequence[Explanation | None],
    failures: Sequence[Any] = (),
    *,
    truth: Sequence[str] = (),
    most_picture_bytes: int = MOST_PICTURE_BYTES,
) -> None:
    """Writes a page about predictions; an older file of the name is replaced as a whole.

    Args:
        path: the HTML file.
        classifier: the :class:`~molo_jax.prediction.classifier.Classifier` that predicted.
        predictions: its predictions, in the order of the page.
        explanations: what :func:`~molo_jax.prediction.explanation.explain` says of each; None for
            a clip that is not explained.
        failures: clips that could not be used, with their `name`, `reason` and `label`, the class
            that they were to be an example of (empty for others).
        truth: the right class of each prediction, empty where it is not known; nothing where it is
            known of none.
        most_picture_bytes: what the pictures may add to the page; clips beyond it have none, and
            the page says so.

    Raises:
        ValueError: there are not as many explanations, or classes in `truth`, as predictions.
        MoloError: the file cannot be written.
    """
    truth = list(truth) or [""] * len(predictions)
    for name, values in (("explanations", explanations), ("truth", truth)):
        if len(values) != len(predictions):
            raise ValueError(f"{name} has {len(values)} entries for {len(predictions)} predictions")
    pictures = Pictures(most_picture_bytes)
    clips = [_clip(pictures, *each) for each in zip(predictions, explanations, truth, strict=True)]
    folder = folder_of_all([each.name for each in predictions])
    support = _support(pictures, classifier)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=_text("report.css"),
            script=_text("report.js"),
            network=classifier.embedder.network,
            clips=clips,
            folder=folder,
            failures=failures,
            totals=_totals(clips, failures),
            confusion_of_truth=_confusion_of_truth(clips, list(support["classes"])),
            support=support,
            left_out=pictures.left_out,
            # The visible parts are made of this by the page's script.
            island={
                "images": pictures.encoded,
                "folders": [folder, support["folder"]],
                "clips": [clip["visual"] for clip in clips],
            },
        )
    )
    path = Path(path)
    with written(path), replacing(path) as temporary:
        # A name that is no text in any encoding is shown with its bytes.
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("molo_jax.prediction", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "breakable": breakable,
    }
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": True,
        "separators": (",", ":"),
        "allow_nan": False,
    }
    return environment


def _text(name: str) -> markupsafe.Markup:
    """Reads a file that goes into the page as it is."""
    folder = resources.files("molo_jax.prediction") / _TEMPLATES
    return markupsafe.Markup((folder / name).read_text(encoding="utf-8"))


def number(value: float) -> str:
    """Writes a distance with two digits behind the point, and more where it is small."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    return text.replace("-", "−", 1) if value < 0 else text


def signed(value: float) -> str:
    """Writes a part of a margin with its sign."""
    return f"{'+' if value >= 0 else '−'}{number(abs(value))}"


def percent(value: float) -> str:
    """Writes a share; 100 % is for certainty alone."""
    return f"{min(100 * value, 99.9):.1f} %" if 0.995 < value < 1 else f"{100 * value:.0f} %"


def breakable(text: str) -> markupsafe.Markup:
    """Lets a long name be broken behind its signs, before it is broken within a word."""
    pieces = re.split(r"(?<=[/_+.\-])", text)
    return markupsafe.Markup("<wbr>").join(piece for piece in pieces if piece)


def folder_of_all(names: Sequence[str]) -> str:
    """Returns the folder that paths have in common, with a slash at its end; empty without one."""
    folders = {name.rpartition("/")[0] for name in names}
    if not folders or "" in folders or len({folder.startswith("/") for folder in folders}) > 1:
        return ""
    common = os.path.commonpath(folders)
    return f"{common.rstrip('/')}/" if common else ""


def _clip(
    pictures: Pictures, prediction: Any, explanation: Explanation | None, truth: str
) -> dict[str, Any]:
    """Gathers what the page says of a clip."""
    strangeness = prediction.strangeness if math.isfinite(prediction.strangeness) else None
    return {
        "prediction": prediction,
        "truth": truth,
        "right": prediction.label == truth if truth else None,
        "strangeness": strangeness,
        "margin": prediction.margin if math.isfinite(prediction.margin) else None,
        "explanation": explanation,
        "visual": _visual(pictures, prediction, explanation),
    }


def _visual(pictures: Pictures, prediction: Any, explanation: Explanation | None) -> dict[str, Any]:
    """Returns what the charts of a clip are drawn from."""
    found = {"query": _strip(pictures, prediction.clip), "limit": _limit(prediction)}
    if explanation is None:
        shares = {name: {"match": value} for name, value in prediction.distances.items()}
        ordered = sorted(shares.items(), key=lambda pair: pair[1]["match"])
        return (
            found | _shares(dict(ordered)) | {"matches": [], "margin": {}, "parts": {}, "rest": {}}
        )
    matches = [explanation.best, explanation.second]
    return found | {
        **_shares(explanation.shares),
        "matches": [_match(pictures, match) for match in matches if match],
        "margin": {key: _rounded(value) for key, value in explanation.margin.items()},
        "parts": {key: _rounded(value) for key, value in explanation.frames.items()},
        "rest": {key: _rounded(value) for key, value in explanation.rest.items()},
    }


def _shares(shares: dict[str, dict[str, float]]) -> dict[str, Any]:
    shown = list(shares.items())[:_MOST_CLASSES]
    return {
        "shares": [
            [name, {key: _rounded(value) for key, value in streams.items()}]
            for name, streams in shown
        ],
        "more": len(shares) - len(shown),
    }


def _match(pictures: Pictures, match: ClassMatch) -> dict[str, Any]:
    return {
        "name": match.name,
        "distance": _rounded(match.distance),
        "strip": _strip(pictures, match.clip),
        "streams": {
            key: {
                "distance": _rounded(each.distance),
                "metric": each.metric.name if each.metric else None,
                "frames": None if each.frames is None else _rounded(each.frames),
                "pairs": [[p.query, p.other, _rounded(p.distance), p.count] for p in each.pairs],
            }
            for key, each in match.streams.items()
        },
    }


def _strip(pictures: Pictures, clip: Any) -> dict[str, Any]:
    """Returns the frames of a clip: their pictures, and when they are shown."""
    seconds = None if clip.seconds is None else [round(float(x), 2) for x in clip.seconds]
    return {
        "name": clip.name,
        "images": pictures.add(clip),
        "count": len(clip.thumbnails),
        "seconds": seconds,
        "numbers": [int(x) for x in clip.numbers],
    }


def _limit(prediction: Any) -> float | None:
    """Returns the largest distance of a known clip, from its strangeness and the threshold."""
    strangeness = prediction.strangeness
    if prediction.threshold is None or not math.isfinite(strangeness) or not strangeness:
        return None
    scale = prediction.distances[prediction.nearest] / strangeness
    return _rounded(prediction.threshold * scale)


def _rounded(values: Any) -> Any:
    """Rounds numbers to what a chart can show."""
    return np.round(np.asarray(values, np.float64), 4).tolist()


def _totals(clips: Sequence[dict[str, Any]], failures: Sequence[Any]) -> dict[str, Any]:
    judged = [clip["right"] for clip in clips if clip["right"] is not None]
    return {
        "clips": len(clips),
        "unknown": sum(not clip["prediction"].known for clip in clips),
        "failed": len(failures),
        "judged": len(judged),
        "right": sum(judged),
    }


def _confusion_of_truth(
    clips: Sequence[dict[str, Any]], classes: Sequence[str]
) -> dict[str, Any] | None:
    """Counts the clips whose class is known, by it and by the prediction."""
    judged = [(clip["truth"], clip["prediction"].label) for clip in clips if clip["truth"]]
    if not judged:
        return None
    # What is no class of the support set, such as "none of these", comes last.
    others = list(dict.fromkeys(name for pair in judged for name in pair if name not in classes))
    names = [*classes, *others]
    counts = np.zeros((len(names), len(names)), int)
    for pair in judged:
        counts[names.index(pair[0]), names.index(pair[1])] += 1
    return _confusion(names, counts)


def _confusion(names: Sequence[str], counts: np.ndarray) -> dict[str, Any] | None:
    """Returns a table of counts, the classes that are right on its diagonal."""
    if len(names) > _MOST_CONFUSED:
        return None
    return {"names": list(names), "counts": counts.tolist(), "most": max(1, int(counts.max()))}


@dataclasses.dataclass(frozen=True)
class _SupportClip:
    """A support clip, and what the others say of it."""

    name: str
    strip: dict[str, Any]
    verdict: str
    right: bool | None


def _support(pictures: Pictures, classifier: Any) -> dict[str, Any]:
    """Gathers what the page says of the support set."""
    found = classifier.leave_one_out()
    names = [str(name) for name in found.classes]
    classes: dict[str, list[_SupportClip]] = {name: [] for name in names}
    for clip, label, predicted in zip(
        found.clips, found.labels.tolist(), found.predicted.tolist(), strict=True
    ):
        right = None if predicted < 0 else predicted == label
        verdict = "looks like its class" if right else f"looks like “{names[predicted]}”"
        if right is None:
            verdict = "not tested: it is the only clip of its class"
        strip = _strip(pictures, clip)
        classes[names[label]].append(_SupportClip(clip.name, strip, verdict, right))
    tested = [clip.right for clips in classes.values() for clip in clips if clip.right is not None]
    return {
        "classes": classes,
        "folder": folder_of_all([clip.name for clip in found.clips]),
        "clips": len(found.clips),
        "tested": len(tested),
        "right": sum(tested),
        "confusion": _confusion(names, np.asarray(found.confusion)),
        "advice": classifier.advice(),
    }
