"""The examples of docs/clusters.md are what Ray, KubeRay and SLURM take, and say what a sweep needs."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config

from irtune.config.load import load, parse_overrides
from irtune.config.sweep_schema import SweepConfig

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "cluster_examples"


def test_ray_up_takes_its_file_and_starts_all_nodes_with_a_token():
    config = prepare_config(yaml.safe_load((EXAMPLES / "ray_up.yaml").read_text()))
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    (node_type,) = config["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"])
    for kind in ("head", "worker"):
        start = config[f"{kind}_start_ray_commands"][-1]
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_rayjob_has_the_fields_of_kuberay():
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    assert "MLFLOW_TRACKING_URI" in yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert [list(source) for source in head["envFrom"]] == [["secretRef"]]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] > 1
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], workers)]
    for pod in pods:
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1


def test_the_sbatch_script_is_one():
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, flags=re.MULTILINE))
    assert int(options["nodes"]) > 1
    assert options["ntasks-per-node"] == "1"
    assert "exclusive" in options
    assert "export RAY_AUTH_MODE=token" in text
    # The sweep joins the cluster that the script starts, and no other.
    assert 'symmetric-run --address "$address"' in text
    assert 'env RAY_ADDRESS="$address" python jobs/sweep.py' in text


@pytest.mark.parametrize(
    "file", ["docs/clusters.md", "docs/cluster_examples/rayjob.yaml", "docs/cluster_examples/slurm.sbatch"]
)
def test_the_sweeps_that_are_submitted_are_sound(file):
    text = re.sub(r"\\\n", " ", (ROOT / file).read_text())
    commands = re.findall(r"jobs/sweep\.py \S*?(search_spaces/\S+)((?:\s+[a-z_.]+=[\w./-]+)*)", text)
    assert commands
    for sweep, overrides in commands:
        config = load(SweepConfig, ROOT / sweep, parse_overrides(overrides.split()))
        assert config.storage == "/shared/results"


@pytest.mark.parametrize("file", ["README.md", *sorted(str(f.relative_to(ROOT)) for f in (ROOT / "docs").rglob("*.*"))])
def test_nothing_is_shown_that_anybody_may_use(file):
    text = re.sub(r"\\\n", " ", (ROOT / file).read_text())
    assert "0.0.0.0" not in text
    for server in re.findall(r"^\s*mlflow server .*$", text, flags=re.MULTILINE):
        assert "--host 127.0.0.1" in server
        # A name by which others are to reach it means that it asks who they are.
        assert "--app-name basic-auth" in server or "--allowed-hosts" not in server
    # Neither in a file nor on a command line.
    assert not re.search(r"://[^\s/]+:[^\s/]+@", text)
    assert not re.search(r"MLFLOW_TRACKING_(PASSWORD|TOKEN)\s*[=:]\s*[\w\"']", text)


def test_links_between_the_documents_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
