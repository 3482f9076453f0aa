"""Once per version and node: a helper process downloads a bank and its model, reads every byte and row, and seals them
(serve/verify.py).

Another makes that by which authors are compared, which takes longer than all the rest.

    python -m serve.prepare '{"root": "runs/demo/store", "cache_dir": null, "version": "...", "with_states": true}'

Deployments start it, so that they themselves only map what is there: reading gigabytes in a process that answers would
make requests wait. It has no socket of theirs, a low priority, and its end is told whatever it is.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.artifacts import bank as bank_files
from models.artifacts.manifest import MANIFEST, ArtifactError
from models.artifacts.seals import Files, Seals
from models.artifacts.store import ArtifactStore
from serve.likeness import Likeness
from serve.verify import verify

if TYPE_CHECKING:
    from serve.loading import Between
    from serve.snapshot import Snapshot

log = logging.getLogger(__name__)
_NICE = 19
_LOWERED = f"import os, runpy; os.nice({_NICE}); runpy.run_module('serve.prepare', run_name='__main__', alter_sys=True)"
"""What the helper runs: of low priority before it imports anything."""
_KEPT = 3
"""Likenesses that stay on a node, those made last."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Of numpy, torch and faiss: the other cores are for who answers."""
_ROOT = Path(__file__).resolve().parents[1]
_TRANSIENT = (OSError, MemoryError)


class PreparationError(OSError):
    """The helper died, or storage did not answer: the same version may be there at the next look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is prepared."""

    root: str
    """Storage root, a folder or URL."""
    version: str
    """Run id of the bank."""
    cache_dir: str | None = None
    """Where the node keeps its cache; None = the temporary folder."""
    with_states: bool = True
    """False where the states stay elsewhere."""
    likeness: bool = False
    """Makes that by which authors are compared, too, from a bank with states."""

    @property
    def seal(self) -> str:
        """Name of its seal."""
        return f"{self.version}{'' if self.with_states else '.without-states'}{'.likeness' if self.likeness else ''}"

    def load(self, between: Between | None = None) -> Snapshot:
        """The snapshot, mapped, of a version that this node has verified: by a helper, where it has not yet.

        `between` as `load_snapshot` has it. Raises ArtifactError or ValueError for one that is refused, and
        PreparationError for what may pass.
        """
        # Here and below: it imports torch, which takes a helper that verifies longer than all it does.
        from serve.loading import at_once, load_snapshot

        store, how = self._prepared(), between or at_once
        with _seals(store).lock("loading"):  # by one process of the node at a time: the other cores answer
            return load_snapshot(store, self.version, with_states=self.with_states, believed=True, between=how)

    def load_likeness(self) -> Likeness:
        """That by which authors are compared, mapped; made by a helper where it is not there yet. Raises as `load`."""
        return Likeness.load(self._likeness_folder(self._prepared()))

    def _prepared(self) -> ArtifactStore:
        store = ArtifactStore.open(self.root, self.cache_dir)
        seals = _seals(store)
        if not seals.holds(self.seal):
            with seals.lock(f"{self.seal}.starting"):  # others wait here, and not in helpers
                if not seals.holds(self.seal):
                    self._by_helper()
            if not seals.holds(self.seal):
                raise ArtifactError(
                    f"bank {self.version}: files changed while they were verified; versions are never written over: "
                    "publish under a new run id"
                )
        return store

    def here(self) -> None:
        """Verifies and seals in this process; nothing where another has done so. Raises as `verify`."""
        store = ArtifactStore.open(self.root, self.cache_dir)
        seals = _seals(store)
        with seals.lock(self.seal):
            if seals.holds(self.seal):
                return
            if self.likeness:
                seals.put(self.seal, self._make_likeness(replace(self, likeness=False).load()))
            else:
                verify(store, self.version, with_states=self.with_states)
                seals.put(self.seal, self._files(store))

    def _make_likeness(self, snapshot: Snapshot) -> Files:
        from serve.loading import fit_likeness

        kept = self._likeness_folder(ArtifactStore.open(self.root, self.cache_dir))
        made = fit_likeness(snapshot.bank)
        fresh = kept.with_name(f".{kept.name}.{os.getpid()}")
        fresh.mkdir(parents=True)
        try:
            names = made.save(fresh)
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        folders = sorted(kept.parent.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for folder in folders[:-_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)
        return {kept: names}

    def _likeness_folder(self, store: ArtifactStore) -> Path:
        return store.own_cache() / "likeness" / f"v={self.version}"

    def _files(self, store: ArtifactStore) -> Files:
        without = None if self.with_states else bank_files.SOURCE
        folder, manifest = store.verified("bank", self.version, without, believed=True)
        named = manifest.made_from
        model_folder, of_model = store.verified(named["ranker"], named["model"], believed=True)
        return {folder: [MANIFEST, *manifest.names(without)], model_folder: [MANIFEST, *of_model.files]}

    def _by_helper(self) -> None:
        # It runs in another folder.
        root = self.root if "://" in self.root else os.path.abspath(self.root)
        cache_dir = self.cache_dir and os.path.abspath(self.cache_dir)
        asked = json.dumps(asdict(self) | {"root": root, "cache_dir": cache_dir})
        command = [sys.executable, "-c", _LOWERED, asked]
        ended = subprocess.run(
            command,
            cwd=_ROOT,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": str(_ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            close_fds=True,
            check=False,
        )
        if ended.returncode == 0:
            return
        try:
            told = json.loads(ended.stdout.splitlines()[-1])
            error, may_pass = str(told["error"]), bool(told["may_pass"])
        except (IndexError, KeyError, TypeError, ValueError):
            raise PreparationError(
                f"bank {self.version}: the process that verifies it ended with {ended.returncode} (a negative number "
                "is a signal, -9 often a lack of memory); it is started again at the next look"
            ) from None
        raise PreparationError(error) if may_pass else ArtifactError(error)


def main(argv: list[str]) -> int:
    """Prepares what the argument names; the last line of stdout says why not, if not."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells at length which processors it was not built for
    try:
        Preparation(**json.loads(argv[0])).here()
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who started this process is told
        log.debug("where it happened:", exc_info=True)
        may_pass = isinstance(error, _TRANSIENT) and not isinstance(error, FileNotFoundError)
        print(json.dumps({"error": f"{type(error).__name__}: {error}", "may_pass": may_pass}), flush=True)
        return 1
    return 0


def _seals(store: ArtifactStore) -> Seals:
    return Seals(store.own_cache() / "seals")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
