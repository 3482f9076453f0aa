"""cluster.yaml: valid for the pinned Ray, the same Ray on every node, authenticated, and free of secrets."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.semantics.engine import processor_kwargs
from pipelines.serving.fast_path import FLAGS, STEADY
from pipelines.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "requirements" / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = read_settings(ROOT / "pipelines" / "configs" / "cluster.yaml")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def start_line(cluster: dict[str, Any], key: str) -> str:
    """The one command of the list that starts Ray."""
    (line,) = [command for command in cluster[key] if "ray start" in command]
    return line


def test_it_passes_the_schema_that_ray_ships(cluster: dict[str, Any]) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)


def test_the_head_type_exists_and_there_are_a_cpu_and_a_gpu_pool(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    workers = [node["resources"] for name, node in types.items() if name != cluster["head_node_type"]]
    assert cluster["head_node_type"] in types
    assert {"GPU" in resources for resources in workers} == {True, False}


def test_no_work_is_placed_on_the_head(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in start_line(cluster, "head_start_ray_commands")


def test_the_one_image_is_the_pinned_ray_on_the_pinned_python(cluster: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = [pin for pin in project["dependencies"] if pin.startswith("ray[")]
    python = project["requires-python"].removeprefix("==").removesuffix(".*").replace(".", "")
    (image,) = re.findall(r"image: (\S+)", TEXT)
    assert image == f"rayproject/ray:{ray.partition('==')[2]}-py{python}-gpu"
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == [image]


def test_all_pools_and_the_baked_image_have_the_packages_of_one_lock(cluster: dict[str, Any]) -> None:
    locks = {Path(name).name for name in re.findall(r"--requirement (\S+)", TEXT + DOCKERFILE)}
    assert locks == {"gpu.txt"}
    assert not any("worker_setup_commands" in node for node in cluster["available_node_types"].values())
    for source in re.findall(r"^COPY (\S+)", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).is_file()


def test_ray_can_start_machines() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [pin.partition("==")[0] for pin in project["optional-dependencies"]["aws"]] == ["boto3"]


def test_every_machine_has_a_recent_driver_and_rights_of_its_own(cluster: dict[str, Any]) -> None:
    nodes = {name: node["node_config"] for name, node in cluster["available_node_types"].items()}
    assert all("oss-nvidia-driver-gpu" in node["ImageId"] for node in nodes.values())
    profiles = {name: node["IamInstanceProfile"]["Name"] for name, node in nodes.items()}
    head = profiles.pop(cluster["head_node_type"])
    assert len(set(profiles.values())) == 1 and head not in profiles.values()


def test_labels_are_those_that_jobs_ask_for(cluster: dict[str, Any]) -> None:
    """Frames are decoded, and jobs of one task run, on the CPU pool; no label is there that nothing asks for."""
    asked = [SETTINGS.anchors.engine.gather_labels, dict(SETTINGS.cluster.job_labels)]
    labels = {name: node.get("labels", {}) for name, node in cluster["available_node_types"].items()}
    assert asked == [labels["cpu_pool"]] * 2 and labels["cpu_pool"]
    assert not any(node for name, node in labels.items() if name != "cpu_pool")


def test_a_node_of_each_pool_can_hold_what_jobs_ask_for(cluster: dict[str, Any]) -> None:
    pools = cluster["available_node_types"]
    cpu, gpu = pools["cpu_pool"]["resources"], pools["gpu_pool"]["resources"]
    engine, scaling = SETTINGS.anchors.engine, SETTINGS.train.scaling
    bundle = processor_kwargs(SETTINGS.anchors.model, SETTINGS.anchors.prompt, engine)["placement_group_config"]
    assert all(each.get("GPU", 0) <= gpu["GPU"] and each["CPU"] <= gpu["CPU"] for each in bundle["bundles"])
    assert scaling.use_gpu and scaling.cpus_per_worker <= gpu["CPU"]
    assert max(engine.num_engines, scaling.num_workers) <= pools["gpu_pool"]["max_workers"]
    assert SETTINGS.cluster.job_cpus + engine.gather_workers / 2 <= cpu["CPU"]


def test_its_configuration_names_places_that_all_nodes_see(cluster: dict[str, Any]) -> None:
    (fetched,) = re.findall(r"copy_files\('(s3://[^/]+)/[^']*', '([^']+)'\)", "\n".join(cluster["setup_commands"]))
    bucket, checkpoints = fetched
    assert SETTINGS.storage.root.startswith(bucket) and str(SETTINGS.train.checkpoints).startswith(bucket)
    assert {Path(SETTINGS.anchors.model).parent, Path(SETTINGS.vocabulary.base_tokenizer).parents[1]} == {
        Path(checkpoints)
    }
    assert (SETTINGS.anchors.engine.use_gpu, SETTINGS.anchors.engine.dtype) == (True, "bfloat16")
    assert Path(SETTINGS.run_dir).is_absolute()


@pytest.mark.parametrize("key", START_COMMANDS)
def test_both_start_commands_set_authentication_and_the_serve_flags(cluster: dict[str, Any], key: str) -> None:
    before_start = start_line(cluster, key).partition("ray start")[0]
    exports = before_start.partition("export ")[2].split()
    found = dict(each.split("=") for each in exports if "=" in each)
    assert found.pop("RAY_AUTH_MODE") == "token"
    assert (
        found == {name: value for name, value in (FLAGS | STEADY).items() if name in found}
        and FLAGS.items() <= found.items()
    )
    assert "ulimit -n 65536" in before_start


@pytest.mark.parametrize("key", START_COMMANDS)
def test_an_older_ray_is_stopped_first_and_memory_is_explicit(cluster: dict[str, Any], key: str) -> None:
    assert cluster[key][0] == "ray stop"
    assert re.search(r"--object-store-memory=\d+", start_line(cluster, key))


def test_the_dashboard_listens_on_the_head_alone(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in start_line(cluster, "head_start_ray_commands").split()


def test_idle_nodes_go_away(cluster: dict[str, Any]) -> None:
    assert 0 < cluster["idle_timeout_minutes"] <= 30
    assert cluster["available_node_types"]["gpu_pool"]["min_workers"] == 0


def test_the_token_comes_from_a_file_of_the_user_and_no_secret_is_written_down(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in TEXT
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", TEXT)
    assert not re.search(r"(password|secret|token)\s*[:=]\s*['\"]?\w{8,}", TEXT)
    # A token of Ray is 32 hexadecimal characters or more; the digest in a comment is elided.
    assert not re.search(r"\b[0-9a-fA-F]{32,}\b", TEXT)


def test_what_is_mounted_from_the_project_exists(cluster: dict[str, Any]) -> None:
    mounted = {remote: ROOT / local for remote, local in cluster["file_mounts"].items() if not local.startswith("~")}
    assert mounted and all(local.exists() for local in mounted.values())
    for requirement in re.findall(r"--requirement (\S+)", TEXT):
        folder, _, name = requirement.rpartition("/")
        assert (mounted[folder] / name).is_file()
