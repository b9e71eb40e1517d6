"""From a trained network to a bundle: calibration, novelty and provenance."""

from __future__ import annotations

import shutil
from itertools import chain
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ser_batch import __version__
from ser_batch.models.bundles import Bundle, BundleArrays, BundleContent, Calibration, save_bundle
from ser_batch.models.calibration import fit_temperature
from ser_batch.models.networks.families import build_learner, build_network, encoder_of, features_of, head_of
from ser_batch.models.novelty import fit_novelty
from ser_batch.training.features import FeatureSet
from ser_batch.training.recipes import Recipe
from ser_batch.training.trainer import CHECKPOINTS, Trainer


def package(
    trainer: Trainer, recipe: Recipe, train: FeatureSet, validation: FeatureSet | None, identity: dict[str, Any]
) -> Bundle:
    """Write the history and the bundle, and remove the checkpoints.

    Args:
        trainer: after the last epoch.
        recipe: of the training.
        train: the training examples, to fit novelty.
        validation: the examples that the temperature is fitted on; None: it is not fitted.
        identity: JSON that is added to the provenance.
    """
    trainer.write_history()
    records, folder = train.records, trainer.folder
    # Not compiled, so that the optimizer's copies of the weights are not saved.
    network = build_network(records.front_end, len(records.labels), recipe, train.scale)
    learner = build_learner(records.front_end, len(records.labels), recipe, train.scale)
    for one in (network, learner):
        one.set_weights(trainer.final_weights())
    provenance = identity | {
        "records_path": records.path.name,
        "n_examples": {"train": train.n_examples, "validation": validation.n_examples if validation else 0},
        "last_epoch": trainer.history[-1],
        "parameters": network.count_params(),
        "versions": {"ser-batch": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    head = head_of(network, recipe, train.scale)
    # Of recordings that are normalised by their speaker, and of the same recordings alone.
    features = features_of(learner)
    novelty = fit_novelty(lambda: chain(train.outputs(features), train.outputs(features, alone=True)))
    arrays = BundleArrays(head, novelty, train.voice_space(head))
    content = BundleContent(
        labels=records.labels,
        front_end=records.front_end,
        calibration=_calibration(learner, validation),
        speaker_normalised=recipe.normalise == "speaker",
        training=provenance,
    )
    bundle = save_bundle(folder, network, encoder_of(network, recipe), arrays, content)
    shutil.rmtree(folder / CHECKPOINTS)
    return bundle


def _calibration(learner: keras.Model, validation: FeatureSet | None) -> Calibration:
    if validation is not None:
        # Recordings are predicted alone: adapted predictions are right more often, so their confidence is rather low.
        outputs = validation.outputs(learner, alone=True)
        probabilities, truth = (np.concatenate(column) for column in zip(*outputs, strict=True))
        temperature = fit_temperature(probabilities, truth)
        if temperature is not None:
            return Calibration(temperature=temperature, fitted_on=validation.n_examples)
    return Calibration(temperature=1.0, fitted_on=None)
