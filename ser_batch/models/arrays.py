"""Base class of a bundle's array files: NumPy archives with a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import BundleError


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFile:
    """Base class of dataclasses whose fields are all arrays or numbers."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All fields as arrays, by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def save(self, file: IO[bytes]) -> None:
        """Write all fields as a NumPy archive."""
        np.savez(file, **self.arrays())

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> Self:
        """Read an archive of `save`.

        Raises:
            BundleError: the file is missing, damaged, or has another fingerprint.
        """
        try:
            with np.load(path) as stored:
                found = cls(**{field.name: stored[field.name] for field in dataclasses.fields(cls)})
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            detail = " ".join(str(error).split())[:200]
            raise BundleError(f"{path}: cannot be loaded ({detail}); copy the bundle again") from error
        if found.fingerprint != fingerprint:
            raise BundleError(f"{path.parent}: {path.name} is not what bundle.json names; copy the bundle again")
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()
