"""Weights of an earlier bundle as the start of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import TrainingError
from ser_batch.models.bundles import Bundle
from ser_batch.models.heads import SMALLEST_VARIANCE
from ser_batch.records.folder import RecordFolder
from ser_batch.training.recipes import Recipe


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """What a training takes from an earlier bundle.

    Attributes:
        variance: of the functionals, to standardise them, float32 ``(functionals,)``.
        kernel, bias: of the softmax layer on the functionals, ``(functionals, labels)`` and ``(labels,)``; 0 for new
            labels. The penalty on the weights is on their distance to these.
        encoder: weights of the CRNN's encoder; None: the bundle or the recipe has none.
        crnn_kernel: of the softmax layer on the CRNN, ``(features, labels)``; NaN for new labels.
        new_labels: labels of the records that the bundle does not have.
    """

    variance: Float32s
    kernel: Float32s
    bias: Float32s
    encoder: list[Float32s] | None
    crnn_kernel: Float32s | None
    new_labels: tuple[str, ...]

    def apply_to_crnn(self, learner: keras.Model) -> None:
        """Set the weights of a CRNN that are known."""
        if self.encoder is None or self.crnn_kernel is None:
            return
        learner.get_layer("crnn").set_weights(self.encoder)
        kernel, bias = learner.get_layer("emotion").get_weights()
        learner.get_layer("emotion").set_weights([np.where(np.isnan(self.crnn_kernel), kernel, self.crnn_kernel), bias])

    def note(self, bundle: Bundle) -> str:
        """What was taken, in one line."""
        parts = "softmax layer" if self.encoder is None else "softmax layer and CRNN"
        new = f"; new labels: {', '.join(self.new_labels)}" if self.new_labels else ""
        return f"starts from the {parts} of {bundle.path} ({bundle.short_fingerprint}){new}"


def initial_weights(bundle: Bundle, records: RecordFolder, recipe: Recipe) -> InitialWeights:
    """The weights of a bundle that fit records and a recipe.

    Args:
        bundle: trained with functionals.
        records: to train on.
        recipe: of the training.

    Raises:
        TrainingError: front ends or networks do not fit, or they have no label in common.
        BundleError: the bundle is damaged.
    """
    if bundle.front_end != records.front_end:
        raise TrainingError(f"--init {bundle.path}: has another front end than {records.path}")
    first = bundle.training["recipe"]
    if {first["network"], recipe.network} != {"functionals"}:
        raise TrainingError(
            f"--init {bundle.path}: its network is {first['network']} and the recipe's is {recipe.network}; both must "
            "be functionals, with or without a CRNN"
        )
    if not set(bundle.labels) & set(records.labels):
        raise TrainingError(
            f"--init {bundle.path}: has no label of the records: {', '.join(bundle.labels)}; "
            f"{records.path} has {', '.join(records.labels)}"
        )
    head, crnn = bundle.load_arrays().head, first.get("crnn")
    share = crnn["share"] if crnn else 0.0
    encoder = crnn_kernel = None
    n_functionals = len(head.kernel)
    if crnn:
        layer = bundle.load_network().get_layer("crnn")
        n_functionals -= layer.output.shape[-1]
        if recipe.crnn is not None:
            deviation = np.sqrt(head.variance[n_functionals:] + SMALLEST_VARIANCE)
            own = head.kernel[n_functionals:] / (share * deviation[:, None])
            encoder, crnn_kernel = layer.get_weights(), _columns(own, bundle.labels, records.labels, np.nan)
    return InitialWeights(
        variance=head.variance[:n_functionals],
        kernel=_columns(head.kernel[:n_functionals] / (1.0 - share), bundle.labels, records.labels, 0.0),
        bias=_columns(head.bias[None] / (1.0 - share), bundle.labels, records.labels, 0.0)[0],
        encoder=encoder,
        crnn_kernel=crnn_kernel,
        new_labels=tuple(label for label in records.labels if label not in bundle.labels),
    )


def _columns(values: Float32s, before: Sequence[str], after: Sequence[str], new: float) -> Float32s:
    """The columns of some labels in the order of others; columns of new labels have one value."""
    found = np.full((len(values), len(after)), new, np.float32)
    for number, label in enumerate(after):
        if label in before:
            found[:, number] = values[:, before.index(label)]
    return found
