"""The optimizer, and the moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ser_batch.training.recipes import OptimisationOptions


def make_optimizer(
    options: OptimisationOptions,
    steps_per_epoch: int,
    combine: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]] = list,
) -> keras.optimizers.Optimizer:
    """Adam or AdamW with the recipe's schedule.

    Args:
        options: optimisation settings.
        steps_per_epoch: number of batches.
        combine: from the gradients of one worker to those that are used; they are clipped afterwards.
    """
    rate: Any = options.learning_rate
    if options.schedule == "cosine":
        warmup_steps = min(options.warmup_epochs, options.epochs - 1) * steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(
            rate if not warmup_steps else 0.0,
            options.epochs * steps_per_epoch - warmup_steps,
            warmup_target=rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    clip = options.clip_norm or None
    if not options.weight_decay:
        return CombinedAdam(combine, rate, global_clipnorm=clip)
    optimizer = CombinedAdamW(combine, rate, weight_decay=options.weight_decay, global_clipnorm=clip)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class _CombinedGradients:
    """An optimizer whose gradients are combined with those of other workers."""

    def __init__(self, combine: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._combine = combine

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> Any:
        """As in Keras."""
        return super().apply(self._combine(grads), trainable_variables)  # type: ignore[misc]


class CombinedAdam(_CombinedGradients, keras.optimizers.Adam):  # type: ignore[misc]
    """Adam with combined gradients."""


class CombinedAdamW(_CombinedGradients, keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW with combined gradients."""


class MovingAverage:
    """The moving average of a network's weights over the steps.

    Not Keras' own average: that one overwrites the weights at the end of every ``fit``, so training could not be
    resumed. The decay is lower in the first steps, as there is little to average.

    Args:
        network: compiled, with a built optimizer.
        decay: per step.
    """

    def __init__(self, network: keras.Model, decay: float) -> None:
        self._network = network
        weights = [weight.value for weight in network.weights]
        self.variables = [tf.Variable(weight, trainable=False) for weight in weights]
        steps = network.optimizer.iterations.value

        def update() -> None:
            done = tf.cast(steps, tf.float32)
            decay_now = tf.minimum(decay, (1.0 + done) / (10.0 + done))
            for average, weight in zip(self.variables, weights, strict=True):
                average.assign_sub((1.0 - decay_now) * (average - weight))

        self._update = tf.function(update, autograph=False)

    def callback(self) -> keras.callbacks.Callback:
        """A callback that updates the average after every step."""
        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: self._update())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager: the network has the averaged weights."""
        trained = self._network.get_weights()
        self._network.set_weights([average.numpy() for average in self.variables])
        try:
            yield
        finally:
            self._network.set_weights(trained)
