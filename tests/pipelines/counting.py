"""A local file system that counts what is asked of it."""

from collections import Counter
from typing import Any

from pyarrow import fs as pafs

from pipelines.tables.storage import Storage


class CountingHandler(pafs.FileSystemHandler):
    """Passes everything on to the local file system; `calls` says how often each kind of question was asked."""

    def __init__(self) -> None:
        self._local = pafs.LocalFileSystem()
        self.calls: Counter[str] = Counter()

    def get_type_name(self) -> str:
        return "counting"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        self.calls["looks"] += len(paths)
        return self._local.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        self.calls["listings"] += 1
        return self._local.get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        self.calls["opened"] += 1
        return self._local.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        self.calls["opened"] += 1
        return self._local.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self.calls["written"] += 1
        return self._local.open_output_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self._local.open_append_stream(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._local.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._local.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._local.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("no test empties the root of the disk")

    def delete_file(self, path: str) -> None:
        self._local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._local.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._local.copy_file(src, dest)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def counting(root: str) -> tuple[Storage, Counter[str]]:
    """A storage at a folder, and the counts of what it asks of its file system."""
    handler = CountingHandler()
    return Storage(pafs.PyFileSystem(handler), root, url=root), handler.calls
