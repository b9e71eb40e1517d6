"""Clients of object stores and web servers, by the scheme of a URL; docs/recordings.md lists their variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pyarrow import fs

from ser_batch.storage.filesystems import WEB

# How often a request is sent if it fails, with growing pauses.
ATTEMPTS = 4
# All attempts together take less time than a worker may be without progress.
CONNECT_SECS, REQUEST_SECS = 5, 10
_ALL_ATTEMPTS_SECS = 15


def store_of(url: str) -> Any:
    """The file system of pyarrow for a URL, or what reads web servers; paths in it have no scheme.

    Raises:
        OSError: the settings of the store are missing or wrong.
    """
    return _store(url.partition("://")[0])


@lru_cache
def _store(scheme: str) -> Any:
    if scheme in WEB:
        from ser_batch.storage.web import WebStore

        return WebStore(scheme)
    return {"s3": _s3, "gs": _google_cloud, "az": _azure}[scheme]()


def s3_endpoint() -> str | None:
    """The address of another S3 store than Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _s3() -> fs.S3FileSystem:
    settings: dict[str, Any] = {"connect_timeout": CONNECT_SECS, "request_timeout": REQUEST_SECS}
    # The AWS SDK in pyarrow reads the credentials itself, but not these.
    if endpoint := s3_endpoint():
        settings["scheme"], settings["endpoint_override"] = _address(endpoint)
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        settings["region"] = region
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    # By default the SDK adds checksums in a form that many stores other than Amazon's refuse.
    with environment("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required" if endpoint else None):
        return fs.S3FileSystem(retry_strategy=retries, **settings)


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable in the block, unless it is set or ``value`` is None."""
    if value is None or name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _google_cloud() -> fs.GcsFileSystem:
    settings: dict[str, Any] = {}
    if endpoint := os.environ.get("STORAGE_EMULATOR_HOST"):
        settings["anonymous"] = True
        settings["scheme"], settings["endpoint_override"] = _address(endpoint)
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_ALL_ATTEMPTS_SECS), **settings)


def _azure() -> fs.AzureFileSystem:
    if not (account := os.environ.get("AZURE_STORAGE_ACCOUNT")):
        raise OSError(22, "AZURE_STORAGE_ACCOUNT is not set; set it to the name of the storage account")
    settings: dict[str, Any] = {}
    if endpoint := os.environ.get("AZURE_STORAGE_ENDPOINT"):
        settings["blob_storage_scheme"], settings["blob_storage_authority"] = _address(endpoint)
        settings["dfs_storage_scheme"], settings["dfs_storage_authority"] = _address(endpoint)
    return fs.AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_KEY"), **settings)


def _address(endpoint: str) -> tuple[str, str]:
    """Scheme and authority."""
    scheme, _, authority = endpoint.rstrip("/").rpartition("://")
    return scheme or "https", authority
