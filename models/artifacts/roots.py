"""Storage roots: a folder or URL as a filesystem, the node's cache for it, and small files put there in one step."""

import hashlib
import os
import tempfile
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as pafs

from models.artifacts.manifest import ArtifactError

_GCS = ("gs", "gcs")
_GCS_RETRIES = "retry_limit_seconds=60"
"""Its own limit is 15 minutes, which a missing credential would take too."""
_OBJECT_STORES = ("s3", *_GCS)


def cache_of(root: str, cache_dir: str | None = None) -> Path:
    """Where this user's processes on this node keep versions of a remote root; `cache_dir` None = temporary folder."""
    named = f"artifact-cache-{os.getuid()}-{hashlib.sha256(root.encode()).hexdigest()[:12]}"
    return Path(cache_dir or tempfile.gettempdir()) / named


def open_root(root: str, key: str = "storage.root") -> tuple[pafs.FileSystem, str, str]:
    """The filesystem of a folder or URL, the path in it, and what opens it again from any other folder.

    `~` is the user's home, `file:///x` the folder /x; `key` is how errors call it. Raises ArtifactError for what
    pyarrow does not know, and OSError where an object store does not answer.
    """
    scheme, remote, rest = root.partition("://")
    if not remote:
        path = os.path.abspath(os.path.expanduser(root))
        return pafs.LocalFileSystem(), path, path
    url = root.rstrip("/")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"  # without a key that a URL may carry
    limited = url if scheme not in _GCS or "retry_limit_seconds" in url else f"{url}{_joined(url)}{_GCS_RETRIES}"
    try:
        filesystem, path = pafs.FileSystem.from_uri(limited)
    except (pa.ArrowException, OSError) as error:
        if scheme in _OBJECT_STORES and not isinstance(error, pa.ArrowException):
            raise
        reason = str(error).replace(root, shown).partition("\n")[0]
        raise ArtifactError(
            f"{key} {shown}: wanted a folder, file:///, s3:// or gs:// that can be opened, got: {reason}"
        ) from error
    if not path.strip("/"):
        raise ArtifactError(f"{key} {shown}: wanted a folder or a bucket, got none")
    return filesystem, path, path if isinstance(filesystem, pafs.LocalFileSystem) else url


def _joined(url: str) -> str:
    return "&" if "?" in url else "?"


def put_file(filesystem: pafs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Puts a small file in one step: by rename on a local disk, by a single put on an object store.

    A put that fails, on a full disk for example, leaves nothing behind.
    """
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    target = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with filesystem.open_output_stream(target) as stream:
            stream.write(content)
        os.replace(target, path)
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise
