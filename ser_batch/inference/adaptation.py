"""Adaptation of predictions to the batch: recordings are normalised in groups, without labels.

The embeddings of a group (a speaker, a voice that was found, or the whole batch) are transformed to the mean and
variance of the training speakers, which removes differences of voices, languages and microphones. The statistics of a
speaker or voice are shrunk towards those of the batch, and those of the batch towards the training: the fewer
recordings, the more. The embeddings stay on disk; only statistics of the groups and voice vectors are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import UsageError
from ser_batch.formatting import pluralize
from ser_batch.inference.embeddings import in_blocks
from ser_batch.models.agreement import batch_temperature
from ser_batch.models.bundles import Adaptation, Bundle, BundleArrays
from ser_batch.models.normalisation import GroupStatistics, scale_to, shrunk
from ser_batch.models.novelty import UNFAMILIAR
from ser_batch.models.voices import order_by_digest

# Pseudo-recordings, with the statistics of the training and of the batch, that are added to a batch and to a group.
_PRIOR_OF_BATCH, _PRIOR_OF_GROUP = 10.0, 20.0

# Batches with fewer recordings get a note.
_SMALL_BATCH = 20

# Recordings whose novelty and agreement are measured; their names choose them.
_MOST_SAMPLED = 2_000

# The mean embedding of each recording, float32 ``(features,)``; None where there is none.
Embeddings = Callable[[], Iterable[Float32s | None]]


def choose_adaptation(
    wanted: str | None, bundle: Bundle, speakers: pa.ChunkedArray, is_stream: bool
) -> tuple[Adaptation, list[str]]:
    """What the predictions of a table are adapted to, with notes for the user.

    Args:
        wanted: by the user; None: the most that the model and the recordings allow.
        bundle: the model.
        speakers: of the recordings; null: unknown.
        is_stream: whether rows are written before all recordings are embedded.

    Raises:
        UsageError: the model or the recordings do not allow what is wanted.
    """
    n_recordings, has_speakers = len(speakers), speakers.null_count < len(speakers)
    possible = bundle.adaptations
    if wanted is not None:
        adaptation = check_adaptation(wanted, bundle)
        if adaptation == "speakers" and not has_speakers:
            raise UsageError("--adapt speakers: no recording has a speaker; give --speaker-from or a column speaker")
    elif is_stream or n_recordings < 2:
        adaptation = "none"
    else:
        order: list[Adaptation] = ["voices", "batch", "none"]
        adaptation = (
            "speakers" if has_speakers and "speakers" in possible else next(one for one in order if one in possible)
        )
    notes = []
    if has_speakers and adaptation in ("none", "batch") and wanted is None and n_recordings > 1:
        reason = "--out - predicts each recording alone" if is_stream else "this model is not normalised by speaker"
        notes.append(f"the speakers have no effect: {reason}")
    if adaptation != "none" and n_recordings < _SMALL_BATCH:
        notes.append(
            f"predictions are adapted to a batch of {pluralize(n_recordings, 'recording')}: if most have the same "
            "emotion, they are less reliable; --adapt none predicts each alone"
        )
    return adaptation, notes


def parse_adaptation(wanted: str) -> Adaptation:
    """The adaptation of this name.

    Raises:
        UsageError: there is none.
    """
    names: tuple[Adaptation, ...] = get_args(Adaptation)
    for name in names:
        if name == wanted:
            return name
    raise UsageError(f"--adapt {wanted}: choose one of {', '.join(get_args(Adaptation))}")


def check_adaptation(wanted: str, bundle: Bundle) -> Adaptation:
    """The adaptation of this name.

    Raises:
        UsageError: there is none, or the model does not allow it.
    """
    adaptation = parse_adaptation(wanted)
    if adaptation not in bundle.adaptations:
        reason = "without speakers" if bundle.content.speaker_normalised else "without --normalise speaker"
        raise UsageError(
            f"--adapt {wanted}: this model was trained {reason}; choose one of {', '.join(bundle.adaptations)}"
        )
    return adaptation


@dataclass(frozen=True, eq=False)
class Groups:
    """The group that each recording is normalised with.

    Attributes:
        numbers: of the group of each recording, int64 ``(recordings,)``; -1: without an embedding.
        scales: factor and offset of each group, float32 ``(groups, 2, features)``; empty: none is normalised.
        speakers: of each recording: as given, or the voice; empty: unknown.
        is_unfamiliar: before adaptation, most recordings are unlike the training data. After it, a batch of nothing but
            music may look like speech, because its own mean has been taken away.
        temperature: of the batch, see `ser_batch.models.agreement.batch_temperature`; None: none is normalised.
    """

    numbers: NDArray[np.int64]
    scales: Float32s
    speakers: Sequence[str]
    is_unfamiliar: bool = False
    temperature: float | None = None

    def of(self, rows: Sequence[int]) -> Float32s | None:
        """Factor and offset of some recordings, float32 ``(rows, 2, features)``; None: none is normalised."""
        return self.scales[self.numbers[rows]] if len(self.scales) else None


def find_groups(
    adaptation: Adaptation, embeddings: Embeddings, given: Sequence[str], names: Sequence[str], arrays: BundleArrays
) -> Groups:
    """The groups of all recordings, with their scales.

    Args:
        adaptation: ``none``: no recording is normalised. ``batch``: all recordings are one group. ``speakers``: the
            recordings of each given speaker are a group, all without a speaker are one. ``voices``: groups of similar
            recordings are found.
        embeddings: of the recordings; called once for each pass.
        given: the speaker of each recording; empty: unknown.
        names: a unique name for each recording.
        arrays: of the bundle.
    """
    if adaptation == "none":
        return Groups(np.full(len(given), -1), np.empty((0, 2, 0), np.float32), given)
    head = arrays.head
    whole = GroupStatistics()
    chosen = set(order_by_digest(names)[:_MOST_SAMPLED])
    sampled: dict[int, Float32s] = {}
    for rows, block in _blocks(embeddings):
        whole.add(block)
        sampled |= {
            row: one.copy() for row, one in zip(rows, block, strict=True) if row in chosen
        }  # a view would keep its block
    if not whole.n_recordings:
        return Groups(np.full(len(given), -1), np.empty((0, 2, 0), np.float32), given)
    values = np.array([*sampled.values()], np.float32).reshape(len(sampled), len(head.mean))
    novelties = [one for block in in_blocks(values) for one in arrays.novelty.of(head.features(np.stack(block)))]
    is_unfamiliar = bool(novelties and np.median(novelties) > UNFAMILIAR)
    batch = shrunk(whole, head.reference, _PRIOR_OF_BATCH)
    batch_scale = scale_to(batch, head.reference)
    known: list[str] = []
    numbers, speakers = np.zeros(len(given), np.int64), given
    if adaptation == "speakers":
        known = sorted(set(given) - {""})
        places = {name: number for number, name in enumerate(known)} | {"": len(known)}
        numbers = np.array([places[name] for name in given])
    elif adaptation == "voices":
        assert arrays.voices is not None
        numbers = _voices(embeddings, batch_scale, names, arrays)
        known = [f"voice-{number:03d}" for number in range(1, numbers.max() + 2)]
        speakers = [known[number] if number >= 0 else "" for number in numbers]
    groups = _statistics(embeddings, numbers, len(known)) if known else []
    scales = np.stack([*(scale_to(shrunk(one, batch, _PRIOR_OF_GROUP), head.reference) for one in groups), batch_scale])
    features = head.features(values, scales[numbers[[*sampled]]])
    temperature = batch_temperature(arrays.agreement, features, whole.n_recordings, is_unfamiliar)
    return Groups(numbers, scales, speakers, is_unfamiliar, temperature)


def _statistics(embeddings: Embeddings, numbers: NDArray[np.int64], n_groups: int) -> list[GroupStatistics]:
    """The statistics of each group."""
    found = [GroupStatistics() for _ in range(n_groups)]
    for rows, block in _blocks(embeddings):
        of_rows = numbers[rows]
        for number in np.unique(of_rows[(of_rows >= 0) & (of_rows < n_groups)]):
            found[number].add(block[of_rows == number])
    return found


def _voices(
    embeddings: Embeddings, batch_scale: Float32s, names: Sequence[str], arrays: BundleArrays
) -> NDArray[np.int64]:
    """The voice of each recording, int64 ``(recordings,)``; -1: it has no embedding."""
    assert arrays.voices is not None
    vectors, used = [], []
    for rows, block in _blocks(embeddings):
        used += rows
        vectors.append(arrays.voices.project(arrays.head.features(block, batch_scale[None])))
    numbers = np.full(len(names), -1)
    numbers[used] = arrays.voices.find(np.concatenate(vectors), [names[row] for row in used])
    return numbers


def _blocks(embeddings: Embeddings) -> Iterator[tuple[list[int], Float32s]]:
    """The rows and embeddings of the recordings that have one, in blocks."""
    for block in in_blocks((row, one) for row, one in enumerate(embeddings()) if one is not None):
        rows, found = zip(*block, strict=True)
        yield list(rows), np.stack(found)
