"""The pieces of the page that show classes and answers, as HTML; every text in them is escaped."""

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8

from molo_jax.data.video.images import encode_jpeg
from molo_jax.prediction.embedder import EmbeddedClip
from molo_jax.prediction.results import Prediction

_QUALITY, _CHROMA = 80, "420"
# Pictures of a class and classes in the chart; the rest is counted.
_MOST_PICTURES, _MOST_BARS = 24, 12


def class_card(name: str, clips: Sequence[EmbeddedClip]) -> str:
    """Shows a class: its name, and the middle frame of each clip."""
    pictures = "".join(_picture(clip) for clip in clips[:_MOST_PICTURES])
    more = len(clips) - _MOST_PICTURES
    rest = f'<span class="more">and {more} more</span>' if more > 0 else ""
    count = f"{len(clips)} clip{'' if len(clips) == 1 else 's'}"
    return (
        f'<div class="class-head"><strong>{escape(name)}</strong> <span>{count}</span></div>'
        f'<div class="strip">{pictures}{rest}</div>'
    )


def no_classes() -> str:
    """Says how to begin."""
    return (
        '<div class="hint">No classes yet. Name one below and drop some clips of it: two are'
        " enough to begin, five to ten are better. Then add a second class.</div>"
    )


def problems(sentences: Sequence[str]) -> str:
    """Shows what went wrong, a line for each."""
    if not sentences:
        return ""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="problems" role="alert">{lines}</ul>'


def advice_list(sentences: Sequence[str], tested: int) -> str:
    """Shows what the support set says about itself.

    Args:
        sentences: the advice.
        tested: how many clips could be tested by those of their own and of other classes.
    """
    if sentences:
        lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        return f'<ul class="advice">{lines}</ul>'
    if not tested:
        return '<div class="hint">Add two classes of two clips or more to get advice.</div>'
    return (
        f'<div class="fine">Each of the {tested} clips was compared with all others, and every one'
        " got its own class.</div>"
    )


def answer(clip: EmbeddedClip | None, prediction: Prediction | None) -> str:
    """Shows what a clip is: the class, the probabilities of all, and the frames of the clip."""
    if clip is None:
        return '<div class="hint">Drop or record a clip, and the answer appears here.</div>'
    frames = "".join(_image(frame, "") for frame in clip.thumbnails)
    strip = (
        f'<div class="strip" aria-label="frames of the clip">{frames}</div>'
        f'<div class="file">{escape(clip.name)}: the frames that the network looked at</div>'
    )
    if prediction is None:
        text = "There are no classes yet. Add some, or make this clip the first of a class."
        return f'<div class="hint">{text}</div>{strip}'
    unlike = "" if prediction.known else " unknown"
    return (
        f'<div class="answer{unlike}"><div class="label">{escape(prediction.label)}</div>'
        f'<div class="how">{_how_sure(prediction)}</div></div>{strip}{_bars(prediction)}'
        f"{_strangeness(prediction)}"
    )


def frame_of(page: str) -> str:
    """Shows a page of its own inside the page; its scripts cannot reach what is around it."""
    return (
        '<iframe class="explanation" title="explanation" sandbox="allow-scripts"'
        f' srcdoc="{escape(page, quote=True)}"></iframe>'
    )


def _how_sure(prediction: Prediction) -> str:
    share, nearest = percent(prediction.probability), escape(prediction.nearest)
    if not prediction.runner_up:
        return "There is one class only, so there is nothing to choose from."
    margin = f"{prediction.margin:.3g} nearer than {escape(prediction.runner_up)}"
    if prediction.known:
        return f"{share}, {margin}"
    return f"The nearest class is {nearest} ({share}, {margin}), but it is too far away."


def _bars(prediction: Prediction) -> str:
    ordered = sorted(prediction.distances, key=prediction.distances.__getitem__)
    rows = "".join(
        f'<div class="name">{escape(name)}</div>'
        f'<div class="bar"><div style="width:{100 * prediction.probabilities[name]:.1f}%"></div>'
        f"</div><div>{percent(prediction.probabilities[name])}</div>"
        f'<div class="distance">{prediction.distances[name]:.3g}</div>'
        for name in ordered[:_MOST_BARS]
    )
    more = len(ordered) - _MOST_BARS
    rest = f'<div class="file">and {more} classes that are farther away</div>' if more > 0 else ""
    head = '<div></div><div></div><div></div><div class="distance">distance</div>'
    return f'<div class="bars">{head}{rows}</div>{rest}'


def _strangeness(prediction: Prediction) -> str:
    """Shows how far the clip is from its class, beside what is usual and what is too far."""
    value, limit = prediction.strangeness, prediction.threshold
    if not math.isfinite(value):
        return (
            '<div class="file">Whether the clip is of none of the classes cannot be told yet: that'
            " needs three clips in classes of two or more.</div>"
        )
    text = f"Distance to the nearest class: {value:.2f} times what is usual within the classes"
    if limit is None:
        return f'<div class="file">{text}.</div>'
    end = 1.25 * max(value, limit, 1.0)
    return (
        f'<div class="scale" role="img" aria-label="{text}; from {limit:.2f} on: none of these">'
        f'<div class="too-far" style="left:{100 * limit / end:.1f}%"></div>'
        f'<div class="usual" style="left:{100 / end:.1f}%"></div>'
        f'<div class="here" style="left:{100 * value / end:.1f}%"></div></div>'
        f'<div class="file">{text}; above {limit:.2f} it counts as “none of these”.</div>'
    )


def percent(share: float) -> str:
    """Writes a probability; certainty is for what is certain."""
    if 0.995 < share < 1:
        return "> 99 %"
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _picture(clip: EmbeddedClip) -> str:
    return _image(clip.thumbnails[len(clip.thumbnails) // 2], clip.name)


def _image(frame: UInt8[np.ndarray, "h w 3"], name: str) -> str:
    data = base64.b64encode(encode_jpeg(frame, _QUALITY, _CHROMA)).decode()
    title = f' title="{escape(name, quote=True)}"' if name else ""
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(name, quote=True)}"{title}'
        f' width="{frame.shape[1]}" height="{frame.shape[0]}">'
    )


# Colors have enough contrast on light and on dark ground.
STYLE = """
.gradio-container { width: 100% !important; max-width: 1180px !important;
  margin: 0 auto !important; --quiet: #52525b; --good: #15803d; }
.dark .gradio-container, .gradio-container.dark, .dark { --quiet: #a1a1aa; --good: #4ade80; }
.page-head h1 { font-size: 1.6rem; font-weight: 650; margin: .2rem 0; }
.page-head p { color: var(--quiet); margin: 0; max-width: 75ch; }
.strip { display: flex; flex-wrap: wrap; gap: 4px; margin: 6px 0; }
.strip img { height: 62px; width: auto; border-radius: 4px; margin: 0; }
.strip .more { align-self: center; color: var(--quiet); }
.class-card, .class-card > .styler { background: var(--background-fill-primary) !important; }
.class-card { border: 1px solid var(--border-color-primary) !important; border-radius: 8px; }
.class-card button { margin: 0 10px 10px; border-radius: 6px; }
.class-head strong { font-size: 1.05rem; overflow-wrap: anywhere; }
.class-head span, .file, .distance { color: var(--quiet); font-size: .85rem; }
.hint { color: var(--quiet); padding: .6rem 0; max-width: 60ch; }
.fine { color: var(--good); padding: .2rem 0; }
.advice { margin: .3rem 0 .3rem 1.1rem; list-style: disc; }
.problems { border-left: 4px solid #dc2626; padding: .4rem .8rem; margin: .4rem 0;
  background: rgba(220, 38, 38, .08); list-style: none; overflow-wrap: anywhere; }
#class-problems:not(:has(.problems)), #clip-problems:not(:has(.problems)) { display: none; }
.answer { border-radius: 10px; padding: .7rem 1rem; margin-bottom: .5rem;
  background: rgba(21, 128, 61, .12); border-left: 6px solid #15803d; }
.answer.unknown { background: rgba(180, 83, 9, .12); border-left-color: #b45309; }
.answer .label { font-size: 1.7rem; font-weight: 700; line-height: 1.2; overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: minmax(5rem, auto) 1fr auto auto; gap: 4px 10px;
  align-items: center; margin: .6rem 0; }
.bars .name { overflow-wrap: anywhere; }
.bars .bar { background: var(--background-fill-secondary); border-radius: 4px; height: 14px;
  border: 1px solid var(--border-color-primary); overflow: hidden; }
.bars .bar div { height: 100%; background: #2563eb; }
.scale { position: relative; height: 14px; margin: .7rem 0 .2rem; border-radius: 4px;
  background: rgba(21, 128, 61, .25); overflow: hidden; }
.scale .too-far { position: absolute; top: 0; bottom: 0; right: 0;
  background: rgba(180, 83, 9, .45); }
.scale .usual, .scale .here { position: absolute; top: 0; bottom: 0; width: 2px;
  background: var(--quiet); }
.scale .here { width: 6px; margin-left: -3px; background: var(--body-text-color); }
.example-row { align-items: end !important; }
iframe.explanation { width: 100%; height: 900px; border: 1px solid var(--border-color-primary);
  border-radius: 8px; background: white; }
"""
