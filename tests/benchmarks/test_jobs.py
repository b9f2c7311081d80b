"""Job files as far as they run without a cluster: parsed, held against the suite, and with a
stand-in for srun.
"""

import json
import math
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import yaml
from pytest import fixture, mark

from tests.conftest import flags_of, succeed

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "benchmarks" / "jobs"


def test_the_jobset_has_a_process_for_each_host_and_its_command_runs_as_far_as_a_dry_run():
    tree = yaml.safe_load((JOBS / "jobset.yaml").read_text())
    (slice_,) = tree["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    topology = job["template"]["spec"]["nodeSelector"][
        "cloud.google.com/gke-tpu-topology"
    ]
    chips = container["resources"]["limits"]["google.com/tpu"]
    hosts = math.prod(map(int, topology.split("x"))) // chips
    assert job["completions"] == job["parallelism"] == hosts > 1
    # A process by itself plans what all of them would run.
    words = [
        one.replace("gs://${BUCKET}", "memory://jobs") for one in container["args"]
    ]
    words.remove("--distributed")
    assert any("memory://" in one for one in words)
    assert " models to fit" in succeed(*words, "--num_latents=50", "--dry_run")


def test_the_image_has_what_it_copies_installs_and_starts():
    text = (JOBS / "Dockerfile").read_text().replace("\\\n", " ")
    found = re.findall(r"^([A-Z]+) (.*)$", text, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = {
        source for name, rest in found if name == "COPY" for source in rest.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    needed = {"sae_gap", "benchmarks", "pyproject.toml", project["readme"]}
    assert needed | {*project["license-files"]} <= copied
    kept = (JOBS / "Dockerfile.dockerignore").read_text().split()
    assert kept[0] == "*" and copied == {line[1:] for line in kept if line[0] == "!"}
    extras = {*re.search(r"'\.\[([a-z,]+)\]'", text)[1].split(",")}
    assert "buckets" in extras <= {*project["optional-dependencies"]}
    # An installed suite has no package `benchmarks`, and its binaries by its one command.
    entry, command = (
        json.loads(rest) for name, rest in found if name in ("ENTRYPOINT", "CMD")
    )
    assert entry == [*project["scripts"]] and command == ["--help"]


def test_the_commands_of_the_page_have_the_flags_that_there_are():
    text = re.sub(r"\\\n\s*", " ", (JOBS / "README.md").read_text())
    found = re.findall(
        r"(?:-m sae_gap |sae-gap |\$IMAGE\"? +)([a-z_]+)((?: +--[^\s\"]+)+)", text
    )
    assert len(found) >= 5
    for name, words in found:
        assert {*re.findall("--([a-z_]+)", words)} <= {*flags_of(name)}, words


# Two tasks on one node, as far as processes can tell; a failure of one is that of the step.
SRUN = """
while [[ $1 == --* ]]; do shift; done
export BATCH=$PPID
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i "$@" &
  tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""
# Says what it was started with, and does what the test has it do.
TASK = """
{ printf '%s\\n' "$@"; echo "devices ${JAX_LOCAL_DEVICE_IDS:-all}"; } > "task-$SLURM_PROCID"
eval "${DO:-}"
"""


@fixture
def cluster(tmp_path):
    """Runs the batch script with arguments, on a machine that has Slurm's programs."""
    programs = {"srun": SRUN, "python": TASK, "scontrol": 'echo "$@" > requeued'}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(*words, **environment):
        given = {
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "2",
            "RESULTS": "there",
            "PYTHON": "./python",
        }
        given["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", shlex.join([str(JOBS / "slurm.sbatch"), *words])],
            env=given | environment,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
        )

    return run


# Slurm signals the script alone, and ends the step once the job is requeued.
LATE = '[[ $SLURM_PROCID == 1 ]] && kill -USR1 "$BATCH"; for _ in {1..500}; do [[ -s requeued ]] && exit 143; sleep .02; done; exit 1'


@mark.parametrize(
    ("given", "code", "devices"),
    [
        # A task has all GPUs of its node, or the one of its number.
        ({"SLURM_GPUS_ON_NODE": "4"}, 0, "0,1,2,3"),
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, 0, "all"),
        # The code of a task that fails is that of the job.
        ({"DO": "exit $((2 * SLURM_PROCID))"}, 2, "all"),
        ({"DO": LATE}, 143, "all"),
    ],
)
def test_the_batch_script_starts_a_process_for_each_task(
    cluster, tmp_path, given, code, devices
):
    done = cluster("amortisation_gap", "--preset=paper", "--seeds=0,1", **given)
    assert (done.returncode, done.stdout) == (code, ""), done
    words = [
        "-m",
        "sae_gap",
        "amortisation_gap",
        "--distributed",
        "--results_dir=there",
    ]
    words += ["--preset=paper", "--seeds=0,1", f"devices {devices}"]
    for task in range(2):
        assert (tmp_path / f"task-{task}").read_text().splitlines() == words
    assert (tmp_path / "requeued").exists() == (code == 143)


@mark.parametrize(("arguments", "results"), [([], "there"), (["vary_latents"], "")])
def test_the_batch_script_says_what_it_lacks(cluster, arguments, results):
    done = cluster(*arguments, RESULTS=results)
    assert done.returncode == 2 and done.stderr.startswith("name a study, and where")
