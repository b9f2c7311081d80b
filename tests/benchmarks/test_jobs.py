"""Job files as far as they run without a cluster: parsed, held against the suite, and with a
stand-in for srun.
"""

import json
import math
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import fsspec
import pytest
import yaml

from tests.conftest import flags_of, succeed

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "benchmarks" / "jobs"
PAGE = (JOBS / "README.md").read_text()
# Chips of a host by accelerator, from Google's table of slices with several hosts.
CHIPS = {"tpu-v5-lite-podslice": 4, "tpu-v6e-slice": 4, "tpu-v5p-slice": 4, "tpu-v4-podslice": 4}


def instructions():
    """The instructions of the Dockerfile in order, without comments and with lines joined."""
    text = re.sub(r"^#.*\n", "", (JOBS / "Dockerfile").read_text(), flags=re.MULTILINE).replace(
        "\\\n", " "
    )
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def commands(text):
    """Each of our own binaries that a text starts, in a checkout or as installed: its name and its
    arguments.
    """
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?:-m sae_gap |sae-gap |\$IMAGE\"? +)([a-z_]+)((?: +--[^\s\"]+)*)", text)
    return [(name, shlex.split(arguments.split("#")[0])) for name, arguments in found]


def check_flags(name, arguments):
    given = {argument[2:].partition("=")[0] for argument in arguments}
    assert given <= {*flags_of(name), "help"}, (name, given)


def test_the_jobset_has_a_process_for_each_host_and_its_command_runs_as_far_as_a_dry_run():
    tree = yaml.safe_load((JOBS / "jobset.yaml").read_text())
    (slice_,) = tree["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    topology, accelerator = (
        pod["nodeSelector"][f"cloud.google.com/gke-tpu-{name}"]
        for name in ("topology", "accelerator")
    )
    chips = math.prod(int(side) for side in topology.split("x"))
    limits, requests = (container["resources"][name] for name in ("limits", "requests"))
    each = limits["google.com/tpu"]
    assert limits == requests and each == CHIPS[accelerator]
    assert job["completions"] == job["parallelism"] == chips // each > 1 and chips % each == 0
    assert job["completionMode"] == "Indexed" and slice_["replicas"] == 1
    name, *arguments = container["args"]
    check_flags(name, arguments)
    # A process by itself plans what all of them would run.
    alone = [one.replace("gs://${BUCKET}", "memory://jobs") for one in arguments]
    alone.remove("--distributed")
    assert any("memory://" in one for one in alone)
    assert " models to fit" in succeed(name, *alone, "--num_latents=50", "--dry_run")
    assert not fsspec.filesystem("memory").find("/jobs")


def test_the_image_has_what_it_copies_installs_and_starts():
    found = instructions()
    assert [name for name, _ in found][:2] == ["ARG", "FROM"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    kept = (JOBS / "Dockerfile.dockerignore").read_text().split()
    copied = {source for name, rest in found if name == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    # What is kept from the context is not copied, and the package needs no more than what is.
    assert kept[0] == "*" and copied == {line[1:] for line in kept if line.startswith("!")}
    needed = {"sae_gap", "benchmarks", "pyproject.toml", project["readme"]}
    assert needed | {*project["license-files"]} <= copied
    (install,) = (rest for name, rest in found if name == "RUN" and "pip install" in rest)
    extras = set(re.search(r"'\.\[([a-z,]+)\]'", install)[1].split(","))
    assert "buckets" in extras <= {*project["optional-dependencies"]}
    # An installed suite has no package `benchmarks`, and its binaries by its one command.
    entry, command = (json.loads(rest) for name, rest in found if name in ("ENTRYPOINT", "CMD"))
    assert entry == [*project["scripts"]] == ["sae-gap"] and command == ["--help"]


def test_the_page_runs_what_there_is():
    shells, pythons = (
        re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
        for language in ("sh", "python")
    )
    found = [command for text in shells + pythons for command in commands(text)]
    assert len(found) == 5 and {name for name, _ in found} == {"amortisation_gap"}
    for name, arguments in found:
        check_flags(name, arguments)
    # Each placeholder that is used has a value, and each that has one is used.
    files = [(JOBS / name).read_text() for name in ("jobset.yaml", "slurm.sbatch")]
    used = {
        name for text in (*shells[1:], *files) for name in re.findall(r"\$\{?([A-Z_]+)\b", text)
    }
    used |= {name for text in pythons for name in re.findall(r"\b[A-Z]{2,}\b", text)}
    named = re.findall(r"([A-Z_]+)=", shells[0])
    assert {*named} <= used and len(named) == len({*named})


def executable(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def shell(command, folder, *, timeout=30, **environment):
    """Runs a line of a shell that finds programs in a folder first."""
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-c", command],
        env={"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
    )


# Two tasks on one node, as far as processes can tell; a failure of one is that of the step.
SRUN = """
while [[ $1 == --* ]]; do shift; done
export BATCH=$PPID SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
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


@pytest.fixture
def cluster(tmp_path):
    """Runs the batch script with arguments, on a machine that has Slurm's programs."""
    executable(tmp_path / "srun", SRUN)
    executable(tmp_path / "python", TASK)
    executable(tmp_path / "scontrol", 'echo "$@" > requeued')

    def run(*arguments, **environment):
        given = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "RESULTS": "there"} | environment
        command = shlex.join([str(JOBS / "slurm.sbatch"), *arguments])
        return shell(command, tmp_path, PYTHON="./python", **given)

    return run


# Slurm signals the script alone, and ends the step once the job is requeued.
LATE = '[[ $SLURM_PROCID == 1 ]] && kill -USR1 "$BATCH"; for _ in {1..500}; do [[ -s requeued ]] && exit 143; sleep .02; done; exit 1'
NODE = {"SLURM_GPUS_ON_NODE": "4"}


@pytest.mark.parametrize(
    ("given", "code", "devices"),
    [
        ({}, 0, "all"),
        # A task has all GPUs of its node, or the one of its number.
        (NODE | {"SLURM_NTASKS_PER_NODE": "1"}, 0, "0,1,2,3"),
        (NODE | {"SLURM_NTASKS_PER_NODE": "4"}, 0, "all"),
        # The code of a task that fails is that of the job.
        ({"DO": "exit $((2 * SLURM_PROCID))"}, 2, "all"),
        ({"DO": LATE}, 143, "all"),
    ],
)
def test_the_batch_script_starts_a_process_for_each_task(cluster, tmp_path, given, code, devices):
    done = cluster("amortisation_gap", "--preset=paper", "--seeds=0,1", **given)
    assert (done.returncode, done.stdout) == (code, ""), done
    words = ["-m", "sae_gap", "amortisation_gap", "--distributed", "--results_dir=there"]
    words += ["--preset=paper", "--seeds=0,1", f"devices {devices}"]
    for task in range(2):
        assert (tmp_path / f"task-{task}").read_text().splitlines() == words
    check_flags("amortisation_gap", words[3:7])
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == "requeue 7\n" * (code == 143)


@pytest.mark.parametrize(("arguments", "results"), [([], "there"), (["vary_latents"], "")])
def test_the_batch_script_says_what_it_lacks(cluster, tmp_path, arguments, results):
    done = cluster(*arguments, RESULTS=results)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("name a study, and where")
    assert not (tmp_path / "task-0").exists()
