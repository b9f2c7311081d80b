"""Each name of a folder's face is there."""

import concurrent.futures
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from pytest import mark, raises

import sae_gap
from sae_gap.core import faces, option

ROOT = Path(sae_gap.__file__).parent


@mark.parametrize("stub", sorted(ROOT.rglob("__init__.pyi")))
def test_a_face_has_the_names_of_its_stub_from_where_they_are_defined(stub):
    face = import_module(".".join(stub.parent.relative_to(ROOT.parent).parts))
    assert {*dir(face)} <= {*face.__all__}
    for name in dir(face):
        home = re.search(rf"from (\S+) import \(?\s*{name} as", stub.read_text())[1]
        assert getattr(face, name) is getattr(import_module(home), name)
    with raises(AttributeError, match="has no attribute 'nope'"):
        _ = face.nope


THREADS = """
import faulthandler, threading
import sae_gap
faulthandler.dump_traceback_later(60, exit=True)
start, lost = threading.Barrier(4), []
def use(name):
    start.wait()
    try:
        getattr(sae_gap, name)
    except BaseException as error:
        lost.append(error)
names = ("learn", "sparse_code", "load_sae", "Setting")
threads = [threading.Thread(target=use, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert lost == [], lost
"""


def test_threads_may_use_different_names_first():
    subprocess.run([sys.executable, "-c", THREADS], cwd=ROOT.parent, check=True)


def test_a_thread_that_waits_for_a_module_keeps_nobody_waiting_for_ever(monkeypatch):
    """One thread holds the lock of the faces until another has loaded a name."""
    monkeypatch.setattr(faces, "PATIENCE", 0.01)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, faces.LOADING:
        assert pool.submit(lambda: sae_gap.core.option).result(timeout=30) is option
