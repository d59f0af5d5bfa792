"""The help of `python -m molo_jax.prepare`: its flags in groups, with what belongs to each."""

import textwrap
from collections.abc import Sequence

from absl import flags

_ASKING = ("help", "helpshort", "h", "?")
_WIDTH, _INDENT = 98, 20
_INTRODUCTION = """
Prepares a data set: decodes every video once and stores its frames.

  python -m molo_jax.prepare --dataset=ssv2 --videos=/data/ssv2/videos --out=data/prepared
  python -m molo_jax.prepare --dataset=folder --videos=DIR --out=data/prepared
"""
_LAYOUTS = """
Layouts for --dataset=folder, with any folders below that of a class:
  DIR/<class>/*                     the classes are divided by --ratio and --seed
  DIR/{train,val,test}/<class>/*    taken as it is
  --split_file=FILE                 CSV with the columns class,split or video,class,split
  --splits_dir=DIR                  lists with lines such as train0//brush_hair/x.avi
"""
_SIZES = """
Every split needs n_way classes, different ones in each: 15 in all with the defaults.
Every class needs its shots and queries: 7 videos in train, 2 in val, 6 in test.
"""
# Title, flags in the order of the help, and lines that follow them.
GROUPS = (
    (
        "Which data",
        ("dataset", "videos", "splits_dir", "split_file", "ratio", "seed"),
        _LAYOUTS,
    ),
    (
        "Which episodes the classes and videos must be enough for",
        ("n_way", "n_shot", "n_query", "train_n_shot", "train_n_query"),
        _SIZES,
    ),
    ("What is done", ("out", "check", "report", "workers", "timeout", "force"), ""),
    (
        "How frames are stored",
        ("resize", "quality", "chroma", "keep", "num_frames", "max_frames"),
        "",
    ),
    ("Apache Beam, for several machines", ("beam_runner", "beam_pipeline_options"), ""),
    ("Generated videos", ("train_videos", "val_videos", "test_videos"), ""),
)


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for this help."""
    return any(arg.startswith("-") and arg.lstrip("-") in _ASKING for arg in arguments)


def text() -> str:
    """The whole help."""
    groups = []
    for title, names, note in GROUPS:
        lines = [f"{title}:", *(_format_flag(flags.FLAGS[name]) for name in names)]
        if note:
            lines += ["", textwrap.indent(note.strip("\n"), "    ")]
        groups.append("\n".join(lines))
    return "\n\n".join([_INTRODUCTION.strip("\n"), *groups])


def _format_flag(flag: flags.Flag) -> str:
    shown = "" if flag.default in (None, [], False) else f" (default {flag.default})"
    lines = textwrap.wrap(f"{flag.help}{shown}", _WIDTH - _INDENT)
    first = f"  --{flag.name}".ljust(_INDENT)
    margin = " " * _INDENT
    if not first.endswith(" "):
        return "\n".join([first, *(margin + line for line in lines)])
    return "\n".join([first + lines[0], *(margin + line for line in lines[1:])])
