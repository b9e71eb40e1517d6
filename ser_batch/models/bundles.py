"""A trained model as one folder: network, labels, front end and where it all came from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.audio.frontend import FrontEnd
from ser_batch.errors import BundleError
from ser_batch.files import json_fingerprint, sync_folder, write_json

if TYPE_CHECKING:
    import keras

MODEL = "model.keras"
DESCRIPTION = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle's description. The network itself is loaded with `load_network`.

    Attributes:
        path: its folder.
        labels: label names in the order of the network's outputs.
        front_end: what the network expects its input to be made with.
        fingerprint: SHA-256 over weights, labels and front end.
        training: where it came from: records, recipe, seed, versions, scores.
    """

    path: Path
    labels: tuple[str, ...]
    front_end: FrontEnd
    fingerprint: str
    training: dict[str, Any]

    @property
    def short_fingerprint(self) -> str:
        """The first 12 digits: what a prediction table names the model by."""
        return self.fingerprint[:12]

    def summary(self) -> str:
        """What it is in one line, for people."""
        recipe = self.training["recipe"]
        last = "  ".join(f"{name} {value:.3f}" for name, value in self.training["last_epoch"].items())
        return (
            f"{len(self.labels)} labels, recipe {recipe['name']}, {recipe['epochs']} epochs, "
            f"{self.training['parameters']:,} parameters; last epoch: {last}"
        )

    def load_network(self) -> keras.Model:
        """The trained network, without optimizer. No code from the bundle runs.

        Raises:
            BundleError: the file is damaged, or not the one that was described.
        """
        network = load_keras(self.path / MODEL)
        if network.output_shape[-1] != len(self.labels) or network.input_shape[1:] != self.front_end.shape:
            raise BundleError(f"{self.path}: {MODEL} does not fit {DESCRIPTION}; copy the bundle again as a whole")
        if network_fingerprint(network, self.labels, self.front_end) != self.fingerprint:
            raise BundleError(
                f"{self.path}: {MODEL} is not the network that {DESCRIPTION} names; copy the bundle again"
            )
        return network


def open_bundle(path: Path) -> Bundle:
    """Read a finished bundle's description.

    Raises:
        BundleError: it is missing, unfinished or damaged.
    """
    try:
        content = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        return Bundle(
            path,
            tuple(content["labels"]),
            FrontEnd.from_json(content["front_end"]),
            content["fingerprint"],
            content["training"],
        )
    except FileNotFoundError:
        unfinished = (path / "checkpoints").is_dir()
        reason = "training is not finished; run its train command again" if unfinished else "not a model bundle"
        raise BundleError(f"{path}: {reason} (no {DESCRIPTION})") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path / DESCRIPTION}: cannot be read ({error}); copy the bundle again") from error


def shipped_bundle() -> Bundle:
    """The bundle that comes with the package."""
    return open_bundle(Path(str(resources.files("ser_batch"))) / "shipped")


def save_bundle(
    path: Path, network: keras.Model, labels: tuple[str, ...], front_end: FrontEnd, training: dict[str, Any]
) -> Bundle:
    """Write a bundle: the network first, the description that says "complete" last.

    Args:
        path: an existing folder.
        network: not compiled, so that no optimizer is saved.
        labels: in the order of its outputs.
        front_end: what its input is made with.
        training: JSON: where it came from.
    """
    save_keras(network, path / MODEL)
    fingerprint = network_fingerprint(network, labels, front_end)
    write_json(
        path / DESCRIPTION,
        {
            "kind": "bundle",
            "fingerprint": fingerprint,
            "labels": labels,
            "front_end": front_end.to_json(),
            "training": training,
        },
    )
    return open_bundle(path)


def save_keras(network: keras.Model, path: Path) -> None:
    """Save in Keras' own format, whole or not at all."""
    partial = path.with_name(f".{path.stem}.partial.keras")
    network.save(partial)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def load_keras(path: Path, compiled: bool = False) -> keras.Model:
    """Load a ``.keras`` file in safe mode.

    Args:
        path: the file.
        compiled: with loss, metrics and the optimizer's state.

    Raises:
        BundleError: it is missing or damaged.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=compiled, safe_mode=True)
    except Exception as error:  # Keras, h5py, zipfile and json each raise their own
        detail = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: cannot be loaded ({detail}); copy the bundle again, or train it anew") from error


def network_fingerprint(network: keras.Model, labels: tuple[str, ...], front_end: FrontEnd) -> str:
    """SHA-256 over weights, labels and front end: equal for equal models, whatever their files' dates."""
    return json_fingerprint([weights_sha256(network), labels, front_end.to_json()])


def weights_sha256(network: keras.Model) -> str:
    """SHA-256 over all weights with their shapes, in the network's order."""
    import keras

    digest = hashlib.sha256()
    for weight in network.weights:
        values = keras.ops.convert_to_numpy(weight.value)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
