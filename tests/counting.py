"""A network that costs nothing, and counts in a file what it is given, whichever process gives it."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ser_batch.audio.decoders import Float32s
from ser_batch.inference.predictions import PredictionOptions
from ser_batch.inference.predictor import Float64s
from ser_batch.models.bundles import Bundle, shipped_bundle

N_LABELS = len(shipped_bundle().labels)


@dataclass(frozen=True)
class CountingNetwork:
    """Stands in for a bundle's network.

    Attributes:
        log: grows by a byte with every window.
    """

    log: Path

    def __call__(self, log_mel: Float32s, speaker_scale: Float32s | None = None) -> Float64s:
        with open(self.log, "ab") as file:
            file.write(b".")
        levels = np.array([band.mean() for band in np.array_split(log_mel, N_LABELS)]) / 10
        shares = np.exp(levels - levels.max())
        return np.append(shares / shares.sum(), 0.5)

    def options(self, bundle: Bundle, windows: bool = False) -> PredictionOptions:
        """What it takes the place of: `PredictionOptions.predictions`."""
        return PredictionOptions(partial(CountingNetwork, self.log), bundle.front_end, windows)

    def counted(self) -> int:
        """The number of windows since the last call."""
        windows = self.log.stat().st_size
        os.truncate(self.log, 0)
        return windows


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> CountingNetwork:
    """Stands in for every bundle's network."""
    counting = CountingNetwork(tmp_path_factory.mktemp("network") / "log")
    counting.log.touch()
    monkeypatch.setattr("ser_batch.inference.predictions.PredictionOptions.predictions", counting.options)
    return counting
