"""What the report shows of clips: needs the network, the videos, and the outcomes if there are."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from molo_jax.analysis.outcome import Outcome
from molo_jax.data.clips.episodes import ClipRequest, ResolvedEpisode
from molo_jax.data.video.containers import BadVideoError
from molo_jax.evaluate import Evaluation, Network, load_network
from molo_jax.nn.precision import using
from molo_jax.reporting import matching
from molo_jax.reporting.embedding_map import EmbeddingMap, embedding_map, vectors_of
from molo_jax.reporting.features import ClipFeatures
from molo_jax.reporting.statistics import HardQuery, hardest
from molo_jax.reporting.strips import Strip, Strips
from molo_jax.results import class_keys

# Example episodes, their classes, and the queries of each whose matching is drawn.
_EPISODES, _MOST_ROWS, _MATCHED = 2, 8, 2
_HARDEST = 12
# Clips of the map, evenly from all classes.
MAP_CLIPS = 500

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Query:
    """A query of an example episode.

    Attributes:
        name: its class.
        predicted: the class that was predicted.
        strip: its frames.
        video: its video.
        margin: distance of the nearest other class minus that of its own.
        pairings: its matching with classes; empty where it is not drawn.
    """

    name: str
    predicted: str
    strip: Strip
    video: str
    margin: float
    pairings: Sequence[matching.Pairing]

    @property
    def right(self) -> bool:
        """Whether the prediction is right."""
        return self.name == self.predicted


@dataclasses.dataclass(frozen=True)
class Example:
    """An episode: a support clip of each class by its name, and the first query of each class."""

    number: int
    way: int
    shot: int
    support: Sequence[tuple[str, Strip, str]]
    queries: Sequence[Query]


@dataclasses.dataclass(frozen=True)
class HardClip:
    """A query that is seldom classified correctly, with its frames where they can be read."""

    name: str
    video: str
    asked: int
    right: int
    margin: float
    taken_for: str
    strip: Strip | None


@dataclasses.dataclass(frozen=True)
class Illustrations:
    """What is shown of clips.

    Attributes:
        examples: example episodes.
        map: the embedding map; None where it was not made.
        network: which network it is, a text.
        streams: the names of the streams that compare single frames.
    """

    examples: Sequence[Example]
    map: EmbeddingMap | None
    network: str
    streams: Sequence[str]

    @property
    def compares_frames(self) -> bool:
        """Whether the method compares single frames."""
        return bool(self.streams)


def hard_clips(
    outcome: Outcome,
    names: Sequence[str],
    videos: Sequence[Sequence[str]],
    strips: Strips,
    evaluation: Evaluation | None,
) -> list[HardClip]:
    """Finds the hardest queries, and reads their frames where there are videos.

    Args:
        outcome: what was predicted.
        names: of the classes.
        videos: the names of the videos of each class; empty where they are not known.
        strips: the pictures of the page.
        evaluation: reads the clips; None: no frames are shown.
    """
    return [
        HardClip(
            name=names[each.class_position],
            video=videos[each.class_position][each.video_position] if videos else "",
            asked=each.asked,
            right=each.right,
            margin=each.margin,
            taken_for="" if each.taken_for is None else names[each.taken_for],
            strip=None if evaluation is None else _frames_of(evaluation, each, strips),
        )
        for each in hardest(outcome, _HARDEST)
    ]


def _frames_of(evaluation: Evaluation, query: HardQuery, strips: Strips) -> Strip | None:
    sampler = next(iter(evaluation.data.samplers.values()))
    place = query.class_position, query.video_position
    try:
        return _strip(evaluation, sampler.clip(*place, 0), strips)
    except (BadVideoError, IndexError) as error:
        logger.warning("the frames of a query are not shown: %s", error)
        return None


def _strip(evaluation: Evaluation, request: ClipRequest, strips: Strips) -> Strip:
    data = evaluation.data
    how = {name: data.reading[name] for name in ("sampling", "resize")}
    key = (*request.video, request.draws.tobytes())
    return strips.add(key, data.dataset.read_clip(request, **how))


def illustrate(
    evaluation: Evaluation,
    workdir: Path,
    source: str,
    strips: Strips,
    *,
    outcome: Outcome | None,
    map_clips: int = MAP_CLIPS,
) -> Illustrations:
    """Draws example episodes and the embedding map.

    Args:
        evaluation: the network's settings and the episodes; its first sampler draws the examples.
        workdir: the work folder.
        source: of the weights, see :func:`molo_jax.evaluate.load_network`.
        strips: the pictures of the page.
        outcome: what was predicted, to find an episode with a mistake; None where it is not known.
        map_clips: how many clips the map shows at most; 0: there is none.

    Raises:
        MoloError: there is no network, or a clip cannot be read.
    """
    network = load_network(source, workdir, evaluation.method, evaluation.data.mesh)
    features = ClipFeatures(evaluation, network, workdir)
    illustrator = _Illustrator(evaluation, network, features, strips)
    examples = [illustrator.example(number) for number in _chosen(outcome)]
    found = illustrator.map(map_clips) if map_clips else None
    title = f"{evaluation.method.title}, {evaluation.method.backbone}, step {network.step}"
    return Illustrations(examples, found, title, illustrator.streams)


def _chosen(outcome: Outcome | None) -> list[int]:
    """Picks the first episode, and the first one with a mistake among those behind it."""
    if outcome is None:
        return [*range(_EPISODES)]
    wrong = np.flatnonzero(outcome.accuracies[1:] < 1) + 1
    return [0, int(wrong[0]) if len(wrong) else 1]


class _Illustrator:
    """One network on the clips of a split."""

    def __init__(
        self, evaluation: Evaluation, network: Network, features: ClipFeatures, strips: Strips
    ):
        self._evaluation, self._features, self._strips = evaluation, features, strips
        data = evaluation.data
        self._weights = network.params, network.batch_stats
        self._sampler = next(iter(data.samplers.values()))
        self._names = class_keys(data.dataset.split)
        self.streams: tuple[str, ...] = ()

        @functools.partial(jax.jit, static_argnames="n_way")
        def evidence(params, batch_stats, support, query, labels, n_way):
            with using(data.precision):
                model = nnx.merge(network.graphdef, params, batch_stats)
                return model.evidence(support, query, labels, n_way=n_way)

        self._evidence = evidence

    def example(self, number: int) -> Example:
        """Draws an episode."""
        episode = self._embedded(number)
        way = self._sampler.n_way
        arrays = (self._features.of(episode.support), self._features.of(episode.query))
        found = jax.device_get(
            self._evidence(*self._weights, *arrays, episode.support_labels, n_way=way)
        )
        self.streams = tuple(name for name, each in found.items() if each.frames is not None)
        apart = matching.distances(found)
        labels = [*range(min(way, _MOST_ROWS))]
        asked = [int(np.flatnonzero(episode.query_labels == label)[0]) for label in labels]
        matched = self._worth_drawing(apart, asked, labels)
        classes = {
            int(label): self._names[clip.class_position]
            for label, clip in zip(episode.support_labels, episode.support, strict=True)
        }
        support = []
        for label in labels:
            clip = episode.support[int(np.flatnonzero(episode.support_labels == label)[0])]
            support.append((classes[label], self._strip(clip), self._video(clip)))
        return Example(
            number=number,
            way=way,
            shot=self._sampler.n_shot,
            support=support,
            queries=[
                Query(
                    name=classes[label],
                    predicted=classes[int(apart[query].argmin())],
                    strip=self._strip(episode.query[query]),
                    video=self._video(episode.query[query]),
                    margin=float(np.delete(apart[query], label).min() - apart[query, label])
                    if way > 1
                    else float("nan"),
                    pairings=self._pairings(episode, found, query, label, classes)
                    if query in matched
                    else (),
                )
                for label, query in zip(labels, asked, strict=True)
            ],
        )

    def map(self, most: int) -> EmbeddingMap | None:
        """Embeds clips evenly from all classes, and lays them out."""
        dataset = self._evaluation.data.dataset
        usable = [
            [video for video in range(size) if not dataset.is_bad(position, video)]
            for position, size in enumerate(dataset.class_sizes)
        ]
        each = max(1, most // len(usable))
        requests = [
            self._sampler.clip(position, video, 0)
            for position, videos in enumerate(usable)
            for video in videos[:each]
        ][:most]
        # A clip that proves to be bad is left out.
        self._features.ensure(requests)
        kept = [clip for clip in requests if not dataset.is_bad(*clip.video)]
        if len(kept) < 3:
            return None
        vectors = vectors_of(self._features.of(kept))
        return embedding_map(
            vectors,
            np.array([clip.class_position for clip in kept]),
            [f"{self._names[clip.class_position]}: {self._video(clip)}" for clip in kept],
            self._names,
            sum(map(len, usable)),
        )

    def _embedded(self, number: int) -> ResolvedEpisode:
        sampler, dataset = self._sampler, self._evaluation.data.dataset
        while True:
            episode = sampler.resolve(sampler(number), dataset.is_bad)
            if self._features.ensure((*episode.support, *episode.query)):
                return episode

    def _strip(self, clip: ClipRequest) -> Strip:
        return _strip(self._evaluation, clip, self._strips)

    def _video(self, clip: ClipRequest) -> str:
        return self._evaluation.data.dataset.video(*clip.video).name

    @staticmethod
    def _worth_drawing(apart: np.ndarray, asked: Sequence[int], labels: Sequence[int]) -> set[int]:
        """Picks a query that is right and one that is wrong, as far as there are such."""
        right = [q for q, label in zip(asked, labels, strict=True) if apart[q].argmin() == label]
        wrong = [q for q in asked if q not in right]
        return {*[*wrong[:1], *right[:1], *wrong[1:], *right[1:]][:_MATCHED]}

    def _pairings(
        self,
        episode: ResolvedEpisode,
        evidence: dict[str, Any],
        query: int,
        label: int,
        classes: dict[int, str],
    ) -> list[matching.Pairing]:
        """Draws a query against its own class and against the nearest other one."""
        apart = matching.distances(evidence)[query]
        order = np.argsort(apart, kind="stable")
        other = next((int(n) for n in order if n != label), None)
        own_role = "its class, predicted" if order[0] == label else "its class"
        rival_role = "nearest other class" if order[0] == label else "predicted class"
        chosen = [(label, own_role), *([] if other is None else [(other, rival_role)])]
        pairings = []
        frames = self._strip(episode.query[query]).frames
        for place, role in chosen:
            members = np.flatnonzero(episode.support_labels == place).tolist()
            clip = matching.shown_clip(evidence, query, members)
            strip = self._strip(episode.support[clip])
            pairings.append(
                matching.Pairing(
                    role=role,
                    name=classes[place],
                    distance=float(apart[place]),
                    support=strip,
                    note=matching.note_of(evidence, len(members)),
                    streams=matching.streams_of(
                        evidence, query, place, clip, (frames, strip.frames)
                    ),
                )
            )
        return pairings
