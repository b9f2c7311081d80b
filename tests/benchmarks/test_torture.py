"""The torture of runs notices what it is there for, and some of its wrong commands are refused here as well."""

import dataclasses
import pathlib

import pytest

from benchmarks import torture, wrong_commands
from sae_gap import Store

ROWS = [
    {"key": f"{number:016x}", "job": "0" * 16, "method": "sae_topk", "seed": number, "mcc_id": 0.5, "fit_seconds": 1.0 + number}
    for number in range(3)
]


def run(folder, rows=ROWS):
    """A folder as a run leaves it."""
    store = Store(folder / torture.STUDY)
    store.append(rows)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "000001-end.npz").write_bytes(b"a model")
    return folder


@pytest.fixture
def reference(tmp_path):
    folder = run(tmp_path / "reference")
    return torture.Reference(torture.rows_of(folder), 1.0, set(torture._files(folder)))


def faults(reference, folder, **options):
    return [fault.partition(":")[0] for fault in torture.compare(reference, folder, **options)]


def test_seconds_and_revisions_may_differ_and_nothing_else(reference, tmp_path):
    slower = [row | {"fit_seconds": 9.0, "revision": "of a later commit"} for row in ROWS]
    assert faults(reference, run(tmp_path / "slower", slower)) == []
    other = [*ROWS[:2], ROWS[2] | {"mcc_id": 0.5 + 1e-7}]
    assert faults(reference, run(tmp_path / "other", other)) == ["sae_topk, seed 2, step None"]
    assert faults(reference, run(tmp_path / "near", other), tolerance=1e-5) == []
    assert len(faults(reference, run(tmp_path / "far", [*ROWS[:2], ROWS[2] | {"mcc_id": 0.6}]), tolerance=1e-5)) == 1


def test_listed_numbers_may_round_to_another_last_digit_on_other_devices(reference, tmp_path):
    def of(name, cosines):
        return run(tmp_path / name, [row | {"cosines": cosines} for row in ROWS])

    folder = of("listed", [0.9512, 0.3])
    listed = torture.Reference(torture.rows_of(folder), 1.0, set())
    assert faults(listed, of("rounded", [0.9513, 0.3]), tolerance=1e-5) == []
    for number, cosines in enumerate(([0.9514, 0.3], [0.9512], 0.9512)):
        assert len(faults(listed, of(f"other-{number}", cosines), tolerance=1e-5)) == 3
    assert len(faults(listed, of("exact", [0.9513, 0.3]))) >= 3


def test_the_study_to_be_disturbed_is_one_that_runs(tmp_path, call):
    code, _, err = call(torture.STUDY, *torture.ARGUMENTS, "--dry_run", f"--results_dir={tmp_path}")
    assert code == 0, err


def test_rows_lost_and_found_are_noticed(reference, tmp_path):
    found = faults(reference, run(tmp_path / "run", [*ROWS[:2], ROWS[2] | {"key": "f" * 16}]))
    assert sorted(found) == [f"row {2:016x} is lost", f"row {'f' * 16} is from nowhere"]


def test_files_left_and_missing_are_noticed(reference, tmp_path):
    folder = run(tmp_path / "run")
    (folder / "models" / "000001-end.npz").rename(folder / "models" / "state.npz")
    assert faults(reference, folder) == ["models/state.npz is left behind", "models/000001-end.npz is missing"]
    (folder / torture.STUDY / "rows.jsonl").write_text("{}\n" * 3)
    assert faults(reference, folder) == ["rows cannot be read"]


def test_a_summary_counts_trials_and_their_faults():
    trials = [torture.Trial("SIGKILL", 3, []), torture.Trial("SIGKILL", 2, ["a", "b"]), torture.Trial("full disk", 1, [])]
    assert [tuple(line.values()) for line in torture.summarise(trials)] == [("SIGKILL", 5, 2, 1), ("full disk", 1, 1, 0)]


def test_an_unknown_part_is_refused(call):
    for parts in ("", "kill", "kills,none"):
        code, out, err = call("torture", f"--parts={parts}")
        assert (code, out) == (2, "") and err.startswith("--parts has ")


def test_the_catalogue_is_of_different_commands_of_binaries_that_are_there(tmp_path):
    commands = [(binary, *arguments) for binary, arguments in wrong_commands.commands(tmp_path)]
    assert len(set(commands)) == len(commands) >= 200
    there = {path.stem for path in pathlib.Path(wrong_commands.__file__).parent.glob("*.py")}
    assert {command[0] for command in commands} <= there


def test_every_eighth_wrong_command_is_refused(tmp_path, call):
    scratch, results = tmp_path / "scratch", tmp_path / "results"
    scratch.mkdir()
    for binary, arguments in list(wrong_commands.commands(scratch))[::8]:
        code, _, err = call(binary, *(argument.replace(wrong_commands.RESULTS, str(results)) for argument in arguments))
        said = [line for line in err.splitlines() if not line.startswith(("I", "W"))]
        assert code == 2 and len(said) == 1 and not results.exists(), (binary, arguments, err)


def test_a_wrong_command_that_is_carried_out_is_a_fault(tmp_path, monkeypatch):
    @dataclasses.dataclass
    class Ended:
        """A process that has run, and whose code the forkserver has lost."""

        code: int
        words: str
        exitcode: int = 255

        def start(self):
            self.said.write_text(self.words)
            self.said.with_suffix(".code").write_text(str(self.code))

        def join(self, seconds=None):
            pass

        def is_alive(self):
            return False

    def trial(ended):
        def make(target, args):
            ended.said = args[2]
            return ended

        monkeypatch.setattr(wrong_commands.SERVER, "Process", make)
        return wrong_commands.give("amortisation_gap", ["--no_such"], tmp_path / "results")[1]

    assert trial(Ended(2, "I1125 a line in the log\n--no_such is unknown; leave it out.\n")) == []
    assert len(trial(Ended(0, "--no_such is unknown; leave it out.\n"))) == 1
    assert len(trial(Ended(2, "Traceback\nError: --no_such\n"))) == 1
    (tmp_path / "results").mkdir()
    assert trial(Ended(2, "--no_such is unknown; leave it out.\n")) == ["amortisation_gap --no_such: leaves an empty folder"]


class Forked:
    """A run that ends by itself with a code and some words, or not until it is killed."""

    def __init__(self, code, words=""):
        self.exitcode, self.code, self.words, self.killed = None, code, words, False

    def join(self, seconds=None):
        if self.code is not None or self.killed:
            self.exitcode = 255 if self.killed is False else -9

    def kill(self):
        self.killed = True


def test_kills_that_kill_nothing_are_no_success(reference, tmp_path, monkeypatch):
    folder = run(tmp_path / "kills-3")

    def killed(*processes):
        waiting = list(processes)

        def fork(binary, arguments, said_in):
            process = waiting.pop(0)
            said_in.write_text(process.words)
            if process.code is not None:
                said_in.with_suffix(".code").write_text(process.code)
            return process

        monkeypatch.setattr(torture.wrong_commands, "fork", fork)
        monkeypatch.setattr(torture, "_end", lambda reference, folder: [])
        return torture._killed(reference, folder, [0.1] * len(processes))

    running = Forked(None)
    assert killed(running, Forked("0")) == torture.Trial("SIGKILL", 1, []) and running.killed
    trial = killed(Forked("0"), Forked("1", "Traceback"), Forked(None))
    assert trial.times == 1 and trial.faults == ["ends by itself with 1, and says Traceback"]
