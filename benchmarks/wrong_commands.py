"""Commands that no binary can carry out, each of which must end with one sentence, exit code 2, and no file left."""

import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import all as every
from sae_gap import files
from sae_gap import results as rows_on_disk

# Commands are many, and importing JAX is most of what each takes: their processes are forked from one that has it.
SERVER = multiprocessing.get_context("forkserver")
# Seconds after which a command that should have been refused is taken to be at work.
_PATIENCE = 120

# Where the folder of results of a command goes.
RESULTS = "{results}"
_STUDIES = sorted(every.STUDIES)
# Flags of every study with values that make no sense.
_OF_STUDIES = {
    "preset": ("", "huge"),
    "protocol": ("", "published"),
    "num_latents": ("", "0", "-3", "10,10", "1e3", "ten", "99999999999999999999"),
    "sparsity": ("", "0", "-1", "2,2", "1.5", "100000"),
    "num_samples": ("", "0", "1", "-5", "8,8", "many"),
    "seeds": ("", "-1", "0,0", "x"),
    "methods": ("", "no_such", "online_dl,online_dl", "all,online_dl"),
    "lam": ("", "0", "-0.1", "nan", "inf", "1e40", "0.1,0.1", "small"),
    "shard": ("", "1", "1/1", "2/2", "-1/2", "0/0", "a/b", "0/1/2"),
    "results_dir": ("",),
    "models_dir": ("",),
}
_OF_SOME = {
    "input_dim": ("", "0", "-2", "x"),
    "noise_db": ("", "nan", "inf", "20,20", "loud"),
    "data": ("", "{scratch}/nowhere.npz", "{scratch}", "{scratch}/empty.npz", "{scratch}/text.npz", "{scratch}/torn.npz"),
}


_OF_WORLDS = (
    *(["--world=heaven"], ["--world="], ["--num_features=0"], ["--num_features=10,20"], ["--input_dim=0"]),
    *(["--law=roots"], ["--law=wings=2"], ["--law=roots=64,roots=64"], ["--law=roots=100000"], ["--law=depth=-1"]),
    *(["--law=most=1"], ["--law=least=0"], ["--law=most=0.1,least=0.2"], ["--law=correlation=-1"], ["--law=exponent=nan"]),
    *(["--world_file={scratch}"], ["--world_file={scratch}/nowhere"], ["--num_features=64", "--world=absorption"]),
)


def commands(scratch: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Names of binaries, and arguments; `RESULTS` in them stands for a folder that must not be there afterwards.

    Args:
      scratch: a folder for the files that they name, which is filled.
    """
    write_files(scratch)
    for binary, arguments in _all():
        yield binary, [argument.replace("{scratch}", str(scratch)) for argument in arguments]


def _all() -> Iterator[tuple[str, list[str]]]:
    wrong = [(name, value) for name, values in _OF_STUDIES.items() for value in values]
    # Each value at one study or another; all values at one.
    for number, (name, value) in enumerate(wrong):
        for study in {"amortisation_gap", _STUDIES[number % len(_STUDIES)]}:
            last = f"--results_dir={RESULTS}" if name != "results_dir" else "--dry_run"
            yield study, [f"--{name}={value}", last]
    for name, values in _OF_SOME.items():
        for value in values:
            yield "amortisation_gap", [f"--{name}={value}", f"--results_dir={RESULTS}"]
    for file in ("nan", "flat", "narrow", "text_rows", "objects", "words", "wide", "lone", "deep", "bomb"):
        yield "amortisation_gap", ["--data={scratch}/" + file + ".npz", f"--results_dir={RESULTS}"]
    for study in sorted(every.STUDIES):
        yield study, ["--no_such_flag=1", f"--results_dir={RESULTS}"]
        yield study, ["word", f"--results_dir={RESULTS}"]
    yield "amortisation_gap", ["--results_dir={scratch}/file"]
    yield "amortisation_gap", ["--results_dir={scratch}/file/below"]
    yield "amortisation_gap", ["--results_dir=/proc/nowhere"]
    yield "amortisation_gap", ["--models_dir={scratch}/file", f"--results_dir={RESULTS}"]
    yield "amortisation_gap", ["--num_latents=20", "--sparsity=20", f"--results_dir={RESULTS}"]
    yield (
        "amortisation_gap",
        ["--num_latents=20", "--sparsity=3", "--input_dim=2", "--num_samples=3", f"--results_dir={RESULTS}"],
    )
    yield "encoder_budget", ["--dictionary=no_such", f"--results_dir={RESULTS}"]
    for study in ("worlds", "vary_latents"):
        for flag in _OF_WORLDS:
            yield study, ["--world=synthsae", *flag, f"--results_dir={RESULTS}"]
    yield "dictionary_challenge", ["--sae_steps=0", f"--results_dir={RESULTS}"]
    yield "dictionary_challenge", ["--peer_steps=-1", f"--results_dir={RESULTS}"]
    yield from _of_measurements()
    yield from _of_speed()
    for damaged in ("edited", "nested", "foreign", "huge_number"):
        yield "amortisation_gap", ["--preset=smoke", "--results_dir={scratch}/" + damaged]
    yield "report", ["--results_dir={scratch}/nowhere"]
    yield "report", ["--results_dir="]
    yield "agreement", ["--results_dir={scratch}/nowhere"]
    yield "all", ["--studies=no_such", f"--results_dir={RESULTS}"]
    yield "all", ["--studies=", f"--results_dir={RESULTS}"]
    yield "certificates", ["--num_problems=0"]
    yield "certificates", ["--preset=huge"]
    yield "certificates", ["--first_seed=-1"]


def _of_measurements() -> Iterator[tuple[str, list[str]]]:
    results = f"--results_dir={RESULTS}"
    for given in (
        [],
        ["--sae={scratch}/nowhere"],
        ["--sae={scratch}/nowhere", "--activations={scratch}/rows.npy"],
        ["--sae={scratch}/file", "--activations={scratch}/rows.npy"],
        ["--sae={scratch}", "--activations={scratch}/rows.npy"],
        ["--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/nowhere.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/wide.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/nan.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/flat.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/words.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/tiny.npy", "--activations={scratch}/rows.npy"],
        ["--dictionary={scratch}/torn.npy", "--activations={scratch}/rows.npy"],
    ):
        yield "measure_sae", [*given, results]
    for activations in (
        "constant.npy",
        "nowhere.npy",
        "nan.npy",
        "flat.npy",
        "words.npy",
        "torn.npy",
        "none.npy",
        "file",
        "objects.npy",
    ):
        yield "measure_sae", ["--dictionary={scratch}/atoms.npy", "--activations={scratch}/" + activations, results]
        yield "train_real", ["--activations={scratch}/" + activations, results]
    good = ["--dictionary={scratch}/atoms.npy", "--activations={scratch}/rows.npy"]
    for flag in (
        *("--lam=0", "--lam=-1", "--lam=nan", "--lam=x", "--lam=1e6", "--lam_fraction=0", "--lam_fraction=2"),
        *("--lam_fraction=nan", "--lam_fraction=1"),
        *("--match_l0=0", "--match_l0=-3", "--match_l0=nan", "--match_l0=1e9", "--max_samples=0", "--max_samples=-1"),
        *("--front_samples=0", "--front_samples=-1", "--controls=no_such", "--key=no_such", "--seed=-1"),
    ):
        yield "measure_sae", [*good, flag, results]
    yield "measure_sae", [*good, "--lam=0.1", "--lam_fraction=0.1", results]
    for flag in ("--num_latents=0", "--sparsity=0", "--methods=no_such", "--methods=", "--epochs=0", "--visits=0", "--seed=-1"):
        yield "train_real", ["--activations={scratch}/rows.npy", flag, results]
    yield "train_real", ["--activations={scratch}/rows.npy", "--sparsity=5000", results]


def _of_speed() -> Iterator[tuple[str, list[str]]]:
    results = f"--results_dir={RESULTS}"
    for flag in (
        *(
            "--num_latents=0",
            "--num_latents=x",
            "--sparsity=0",
            "--num_samples=0",
            "--lam=0",
            "--lam=nan",
            "--lam=1e6",
            "--solvers=no_such",
        ),
        *("--repeats=0", "--world=no_such", "--input_dim=0", "--lam_fraction=2", "--dictionary={scratch}/nowhere.npy"),
        "--dictionary={scratch}/nan.npy",
    ):
        yield "solver_speed", [flag, results]
    yield "solver_speed", ["--dictionary={scratch}/wide.npy", "--activations={scratch}/rows.npy", results]
    for flag in ("--num_latents=0", "--num_latents=", "--num_seeds=0", "--num_seeds=-1", "--num_steps=0", "--repeats=0"):
        yield "training_speed", [flag, results]


def write_files(folder: pathlib.Path) -> None:
    """The files that the commands name."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 8)).astype(np.float32)
    arrays = {
        "rows": rows,
        "atoms": rows[:16].T.copy(),
        "nan": np.where(rows == rows[3, 3], np.float32("nan"), rows),
        "flat": rows.ravel(),
        "wide": rng.normal(size=(12, 16)).astype(np.float32),
        "words": np.full((4, 8), "word"),
        "none": rows[:0],
        "constant": np.ones_like(rows),
        "tiny": np.float32(1e-42) * rows[:16].T,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    whole = (folder / "rows.npy").read_bytes()
    (folder / "torn.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "file").write_text("a file\n")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("no archive\n")
    splits = {f"Y_{name}": rows for name in ("train", "val", "ood")}
    _save(folder / "nan.npz", splits | {"Y_val": arrays["nan"]})
    _save(folder / "flat.npz", splits | {"Y_train": arrays["flat"]})
    _save(folder / "narrow.npz", splits | {"Y_ood": rows[:, :5]})
    _save(folder / "text_rows.npz", splits | {"Y_train": arrays["words"]})
    _save(folder / "words.npz", {"some": rows})
    _save(folder / "wide.npz", splits | {"A": arrays["wide"]})
    _save(folder / "lone.npz", {"Y_train": rows})
    _save(folder / "objects.npz", {name: np.array([{}], object) for name in splits})
    torn = (folder / "nan.npz").read_bytes()
    (folder / "torn.npz").write_bytes(torn[: len(torn) // 2])
    _write_members(folder / "deep.npz", _header("(" * 9_000 + ")" * 9_000))
    _write_members(folder / "bomb.npz", _header("(1000000000, 1000000)"))
    for name, text in {
        "edited": _row(value=1.0).replace("1.0", "2.0"),
        "nested": "[" * 100_000,
        "foreign": _row(study="another", schema=0),
        "huge_number": _row(value=1.0).replace("1.0", "1e999"),
    }.items():
        study = folder / name / "amortisation_gap"
        study.mkdir(parents=True)
        (study / "rows.jsonl").write_text(text + "\n")


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _header(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header


def _write_members(path: pathlib.Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("Y_train", "Y_val", "Y_ood"):
            archive.writestr(f"{name}.npy", content)


def _row(**columns) -> str:
    """A row as a store writes it, by the store."""
    with tempfile.TemporaryDirectory() as made:
        store = rows_on_disk.Store(made)
        store.append([{"key": "0" * 16, "job": "1" * 16, **columns}])
        return store.path.read_text().strip()


def give(binary: str, arguments: Sequence[str], folder: pathlib.Path) -> tuple[str, list[str]]:
    """Gives a wrong command to a process of its own.

    Args:
      binary: its name.
      arguments: its flags, with `RESULTS` in them for the folder.
      folder: of results, which must not come to be.

    Returns:
      What the process said, and what is wrong with its end, a line each.
    """
    given = [argument.replace(RESULTS, str(folder)) for argument in arguments]
    said_in = folder.with_suffix(".txt")
    process = fork(binary, given, said_in)
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    said = said_in.read_text().strip() if said_in.exists() else ""
    # A forkserver that is busy may lose the code of a process, and then says 255.
    ended = said_in.with_suffix(".code")
    code = int(ended.read_text()) if ended.exists() else process.exitcode
    sentences = [line for line in said.splitlines() if not line.startswith(("I", "W"))]
    shown = " ".join([binary, *arguments])
    faults = []
    if code != 2 or len(sentences) != 1 or len(said) > 1_000:
        faults.append(f"{shown}: ends with {code}: {said[-300:]}")
    if folder.exists():
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        faults.append(f"{shown}: leaves {left or 'an empty folder'}")
    return said, faults


def fork(binary: str, arguments: Sequence[str], said_in: pathlib.Path) -> multiprocessing.process.BaseProcess:
    """Starts a binary in a process that has imported the suite already.

    Args:
      binary: its name.
      arguments: its flags.
      said_in: where what it says on stderr goes; beside it, with the ending `.code`, its exit code, once it has ended.
    """
    SERVER.set_forkserver_preload(["benchmarks.bench", "sae_gap"])
    process = SERVER.Process(target=_call, args=(binary, arguments, said_in))
    process.start()
    return process


def _call(binary: str, arguments: Sequence[str], said_in: pathlib.Path) -> None:
    """Runs a binary in this process, which has imported what is slow to import, and is used for nothing else."""
    with said_in.open("wb") as said, open(os.devnull, "wb") as nowhere:
        os.dup2(said.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
    sys.argv = [binary, *arguments]
    code: Any = 0
    # Else runpy would warn that it is imported already.
    sys.modules.pop(f"benchmarks.{binary}", None)
    try:
        runpy.run_module(f"benchmarks.{binary}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    ended = code if isinstance(code, int) else int(code is not None)
    files.write_atomically(said_in.with_suffix(".code"), str(ended).encode())


__all__ = ["RESULTS", "SERVER", "commands", "fork", "give", "write_files"]
