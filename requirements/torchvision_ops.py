"""Let a CUDA-linked torchvision import next to a CPU build of torch.

The torchvision wheel on PyPI is linked to CUDA. Beside a CPU build of torch its C++ library cannot load, its operators
are never declared, and ``import torchvision`` stops with "operator torchvision::nms does not exist", although the image
transforms that the Qwen-VL processor needs use none of those operators. Declaring the two schemas that torchvision
refers to while it is imported is enough. They stay without an implementation: calling them still fails.

Run by the virtual environment's own Python (``make install`` does so for ``EXTRA=cpu``), this file copies itself into
site-packages beside a ``.pth`` file, so that every process of that environment, vLLM's workers included, gets the hook
before its first import. It imports no torch by itself, and it changes nothing where torchvision loads its own library.
"""

import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class DeclareMissingOperators:
    """Import hook that finds no module: it only acts at one point of torchvision's own import.

    ``torchvision/__init__.py`` first tries to load its C++ library and then imports ``_meta_registrations``, which
    needs the operators. In between is the only moment when "missing" can be told from "not loaded yet".
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Declare what is missing when torchvision is about to refer to it; the normal import then goes on."""
        if name == "torchvision._meta_registrations":
            import torch

            for operator, schema in SCHEMAS.items():
                if not hasattr(torch.ops.torchvision, operator.partition("::")[2]):
                    torch.library.define(operator, schema)


def install() -> None:
    """Put the hook in front of the import system, once per process."""
    if DeclareMissingOperators not in sys.meta_path:
        sys.meta_path.insert(0, DeclareMissingOperators)


def copy_into_site_packages() -> Path:
    """Copy this file into the running Python's site-packages with the ``.pth`` line that starts it; return its path."""
    module = Path(sysconfig.get_path("purelib")) / Path(__file__).name
    shutil.copyfile(__file__, module)
    module.with_suffix(".pth").write_text(f"import {module.stem}; {module.stem}.install()\n")
    return module


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        raise SystemExit(f"{sys.executable} is no virtual environment: run `make install`, or use .venv/bin/python")
    print(f"torchvision hook: {copy_into_site_packages()}")
