"""The folder of a run of Ray Train, put in order before an attempt reads it and after one that failed.

Ray Train writes its list of a run's checkpoints in place: a kill, or a full disk, at that moment would end every later
attempt. And it leaves what it has uploaded of a checkpoint when the upload fails, which would keep the disk full.
"""

import json
import logging

from pyarrow import fs as pafs

from models.artifacts.roots import open_root, put_file

log = logging.getLogger(__name__)
_LIST, _CHECKPOINT = "checkpoint_manager_snapshot.json", "checkpoint_"
"""Of Ray Train: a file of a run's folder, and what the names of its checkpoints begin with, which sort by time."""


def tidy(storage_path: str, name: str) -> None:
    """Removes what the list of checkpoints does not name; a list that is not whole is made anew of all that are there.

    So the list may name halves: whoever goes on from a checkpoint verifies it. Only while no attempt is at work.
    """
    filesystem, path, _ = open_root(storage_path)
    run = f"{path}/{name}"
    infos = filesystem.get_file_info(pafs.FileSelector(run, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)
    there = [name for name in names if name.startswith(_CHECKPOINT)]
    listed = _listed(filesystem, f"{run}/{_LIST}")
    if listed is not None:
        for folder in there:
            if folder not in listed:
                filesystem.delete_dir(f"{run}/{folder}")
    elif there:
        put_file(filesystem, f"{run}/{_LIST}", _list_of(there))
        log.warning("%s: the list of checkpoints was not whole; made anew of the %d that are there", run, len(there))
    elif any(info.base_name == _LIST for info in infos):
        filesystem.delete_file(f"{run}/{_LIST}")


def _listed(filesystem: pafs.FileSystem, path: str) -> set[str] | None:
    """Names of checkpoints; None where there is no list, or a part of one."""
    if filesystem.get_file_info(path).type != pafs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    try:
        return {of["checkpoint_dir_name"] for of in json.loads(content)["checkpoint_results"]}
    except (ValueError, KeyError):
        return None


def _list_of(names: list[str]) -> bytes:
    """As Ray Train writes it."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
        _TrainingResultState,
    )

    results = [_TrainingResultState(checkpoint_dir_name=name, metrics={}) for name in names]
    state = _CheckpointManagerState(
        checkpoint_results=results,
        checkpoint_report_indices=list(range(len(names))),
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(names),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    content: str = state.model_dump_json()
    return content.encode()
