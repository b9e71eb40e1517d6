"""What the functions of this package make of their arguments: engine, bundles and listings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ser_batch.errors import SerBatchError, UsageError
from ser_batch.events import Note, Report
from ser_batch.formatting import pluralize
from ser_batch.runtime.local import AUDIO_WORKER_BYTES, LocalEngine
from ser_batch.runtime.ray_engine import RayEngine
from ser_batch.runtime.resources import usable_cpus
from ser_batch.storage.filesystems import as_url

if TYPE_CHECKING:
    from ser_batch.corpus.table import Listing
    from ser_batch.models.bundles import Bundle

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


_P = ParamSpec("_P")
_R = TypeVar("_R")


def at_stores(
    *inputs: str,
    out: str | None = None,
    check_out: Callable[[str, Mapping[str, Any]], object] = lambda url, arguments: None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let arguments of a function be URLs of an object store; see `ser_batch.storage.copies`.

    Args:
        inputs: names of arguments that are copied to this machine before.
        out: name of the argument that is sent to the store at the end.
        check_out: called with its URL and all arguments before anything is copied.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            bound = signature(function).bind(*args, **kwargs)
            given = bound.arguments
            paths = {name: given[name] for name in (*inputs, out) if name and given.get(name) is not None}
            remote = {name: url for name, path in paths.items() if (url := as_url(path))}
            if not remote:
                return function(*args, **kwargs)
            if out in remote:
                check_out(remote[out], given)
            from ser_batch.storage.copies import published

            urls: dict[str, str] = {}
            with _urls_named(urls):
                for name in remote.keys() - {out}:
                    given[name] = local_path(given[name])
                    urls[str(given[name])] = remote[name]
                with published(remote[out]) if out in remote else nullcontext() as place:
                    if place is not None and out:
                        urls[str(place)] = remote[out]
                        given[out] = place
                    return function(*bound.args, **bound.kwargs)

        return called

    return decorate


@contextmanager
def _urls_named(urls: dict[str, str]) -> Iterator[None]:
    """Errors in the block name URLs in place of their local copies."""
    try:
        yield
    except SerBatchError as error:
        for local, url in urls.items():
            error.args = tuple(one.replace(local, url) if isinstance(one, str) else one for one in error.args)
        raise


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path, or the local copy of an object or prefix of a store.

    Raises:
        SourceError: it is missing in the store, or cannot be read.
    """
    if (url := as_url(path)) is None:
        return Path(path)
    from ser_batch.storage.copies import local_copy

    return local_copy(url)


def engine_of(
    name: str, workers: int | None, ray_address: str | None, worker_bytes: int | None = AUDIO_WORKER_BYTES
) -> LocalEngine | RayEngine:
    """The engine of a name, not started yet.

    Raises:
        UsageError: there is no such engine, or an address was given for another.
    """
    if name == "ray":
        return RayEngine(workers, ray_address, worker_bytes)
    if name != "local":
        raise UsageError(f"--engine {name}: no such engine; choose one of local, ray")
    if ray_address is not None:
        raise UsageError(f"--ray-address {ray_address}: is for --engine ray")
    return LocalEngine(workers or usable_cpus(), worker_bytes)


def initial_bundle(init: str | os.PathLike[str] | None) -> Bundle | None:
    """The bundle whose weights a training starts from."""
    return None if init is None else bundle_of(init)


def bundle_of(path: str | os.PathLike[str] | None) -> Bundle:
    """A bundle; ``shipped`` or None: the model of the package."""
    from ser_batch.models.bundles import open_bundle, shipped_bundle

    return shipped_bundle() if path is None or os.fspath(path) == "shipped" else open_bundle(Path(path))


def output_path(path: str | os.PathLike[str]) -> Path:
    """The path of an output of a command; ``shipped``: the model of the package, if there is no such file or folder."""
    return bundle_of(path).path if os.fspath(path) == "shipped" and not Path(path).exists() else Path(path)


def listing_of(source: Source, report: Report) -> Listing:
    """The recordings of a source; files without an audio extension and remarks are reported."""
    from ser_batch.corpus.sources import list_sources

    sources = sources_of(source)
    listing = list_sources(sources)
    if listing.other_files:
        where = sources[0] if len(sources) == 1 else f"{len(sources):,} SOURCEs"
        skipped = pluralize(listing.other_files, "file")
        report(Note(f"skipped: {skipped} in {where} without an audio extension", is_warning=False))
    for note in listing.notes:
        report(Note(note))
    return listing


def sources_of(source: Source) -> list[str]:
    """One or several sources as strings."""
    if isinstance(source, str | os.PathLike):
        return [os.fspath(source)]
    return [os.fspath(one) for one in source]


def with_speakers(listing: Listing, speaker_from: str | None, report: Report) -> Listing:
    """The listing with speakers by ``--speaker-from``; doubtful names are reported."""
    from ser_batch.corpus.labels import name_speakers, speaker_notes

    if speaker_from is not None:
        listing = name_speakers(listing, speaker_from)
    for note in speaker_notes(listing.recordings):
        report(Note(note))
    return listing
