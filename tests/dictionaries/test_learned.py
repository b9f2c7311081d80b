"""The front door, on a task whose dictionary is known: what it codes, scores and writes, by SciPy
and by hand.
"""

import itertools

import numpy as np
import scipy.optimize
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark, raises

import sae_gap
from sae_gap import Setting, agreement
from sae_gap.data import Activations
from sae_gap.data.activations import rows
from sae_gap.dictionaries import learned as curve
from sae_gap.dictionaries.fits import spread
from sae_gap.encoders import BatchTopK, TopK
from sae_gap.storage import Checkpoint

WIDTH = 40
L0 = 3


@fixture(scope="module")
def task():
    return sae_gap.draw(
        Setting(num_latents=WIDTH, sparsity=L0, num_samples=2_000, input_dim=30)
    )


@fixture(scope="module")
def activations(task):
    """With a mean of their own and two outlier tokens."""
    x = np.array(task.train.signals) + 2
    x[[5, 700]] *= 300
    return x


@fixture(scope="module")
def learned(activations):
    """What it is asked later does not follow the array, nor is λ looked for any more."""
    x = activations.copy()
    found = sae_gap.learn(x, WIDTH, L0, visits=40)
    x[:] = 0
    assert found.weights[L0] > 0
    return found


@fixture(scope="module")
def fresh(task):
    return np.asarray(task.id.signals)[:60] + 2


def test_it_finds_the_dictionary_whatever_the_outliers_rows_and_the_unit(
    task, activations, learned
):
    kept = sae_gap.learn(1000 * activations, WIDTH, L0, visits=20, outliers="keep")
    for dictionary, count in ((learned, 998), (kept, 1_000)):
        assert dictionary.train.num_samples + dictionary.held_out.num_samples == count
        assert agreement(dictionary, task.dictionary) > 0.85


def test_the_same_seed_gives_the_same_bits_from_a_file(tmp_path, activations, learned):
    np.save(tmp_path / "x.npy", activations)
    # Numbers of NumPy are as good as Python's.
    numbers = {"width": np.int64(WIDTH), "l0": np.float32(L0), "visits": np.float32(40)}
    again = sae_gap.learn(str(tmp_path / "x.npy"), **numbers, seed=np.int64(0))
    assert again.fvu(l0=np.float32(L0)) == again.fvu() == learned.fvu()
    assert again.sae(np.int64(L0), encoder="mp").k == L0
    assert_array_equal(again.atoms, learned.atoms)


def test_codes_are_the_certified_lasso_and_least_squares_on_its_support(
    monkeypatch, learned, fresh
):
    y = fresh.astype(float) - learned.bias
    lam = learned.lam()
    lasso = learned.encode(fresh, refit=False)
    codes = learned.encode(fresh)
    assert learned.certificate < 1e-5
    assert learned.encode(fresh, 1, refit=False).nnz == approx(len(fresh), rel=0.3)
    values = lasso.toarray().astype(float)
    assert values.min() == 0 and np.count_nonzero(values, axis=1).mean() == approx(
        L0, rel=0.1
    )
    # No direction lowers ½‖y - D z‖² + λ Σz: its slope is zero where z > 0 and not negative
    # elsewhere.
    slope = lam - (y - values @ learned.atoms.T) @ learned.atoms
    assert abs(slope[values > 0]).max() < 1e-3 * lam and slope.min() > -1e-3 * lam
    for target, row, own in zip(y[:20], values, codes.toarray(), strict=False):
        best = np.zeros(WIDTH)
        # SciPy crashes on a matrix without columns.
        if row.any():
            best[row > 0] = scipy.optimize.nnls(
                learned.atoms[:, row > 0].astype(float), target
            )[0]
        assert_allclose(own, best, atol=1e-4)
    # A row's codes depend neither on its company nor on a weight that was asked for of other rows.
    assert learned.lam(activations=5 * fresh) > lam
    alone = learned.encode(fresh[7:8]).toarray()
    assert_allclose(alone, codes.toarray()[7:8], atol=1e-4)
    # The certificate is that of the worst row of all chunks, whichever is last.
    found = [
        learned.encode(part) is None or learned.certificate
        for part in np.split(fresh, 3)
    ]
    monkeypatch.setattr(curve, "CHUNK", 20)
    learned.encode(
        np.concatenate([np.split(fresh, 3)[i] for i in np.argsort(found)[::-1]])
    )
    assert learned.certificate == max(found) > min(found)


def test_its_fvu_is_that_of_the_report(learned, fresh):
    report = learned.report(np.concatenate([fresh, 300 * fresh[:1]]))
    assert [line["dictionary"] for line in report.curves] == [
        "learned",
        "random",
        "samples",
    ]
    assert learned.fvu(fresh) == approx(report.curves[0]["curve_refit_fvu"], rel=1e-4)
    assert report.lead.low > 0 and f"control, samples: {report.lead}" in repr(report)
    assert learned.fvu(l0=2 * L0) < learned.fvu()


def test_outlier_tokens_are_left_out_of_a_score_unless_they_are_kept(
    learned, fresh, caplog
):
    # Of one atom, since a support that is nearly full takes seconds.
    row = learned.bias + 12 * np.median(norm(fresh, axis=1)) * learned.atoms[:, 0]
    spoilt = np.concatenate([fresh, row[None].astype(np.float32)])
    assert (
        learned.fvu(spoilt) == approx(learned.fvu(fresh), rel=1e-6)
        and "; left out" in caplog.text
    )
    assert learned.fvu(spoilt, outliers="keep") != approx(learned.fvu(fresh), rel=0.01)
    assert learned.encode(spoilt).shape == (61, WIDTH)
    (line,) = learned.report(spoilt, controls=(), outliers="keep").curves
    assert learned.fvu(spoilt, outliers="keep") == approx(
        line["curve_refit_fvu"], rel=1e-4
    )


def test_a_file_beyond_memory_is_learned_from_as_well(
    monkeypatch, tmp_path, task, activations
):
    monkeypatch.setattr(rows, "POOL", 1_000)
    monkeypatch.setattr(Activations, "pool", None)
    np.save(tmp_path / "x.npy", activations)
    found = sae_gap.learn(tmp_path / "x.npy", WIDTH, L0, visits=40)
    assert agreement(found, task.dictionary) > 0.85
    kept = found.train.take(np.arange(found.train.num_samples))
    assert_allclose(found.bias, kept.mean(axis=0), atol=0.05)


@mark.parametrize(("count", "rounds"), [(97, 100), (1_000, 61)])
def test_rounds_of_a_file_are_spread_and_take_all_rows_alike_often(count, rounds):
    numbered = sae_gap.open_activations(np.arange(count, dtype=np.float32)[:, None])
    source = spread(numbered, rounds, 8)
    turns = np.concatenate([source(turn * 8, 8) for turn in range(rounds)]).reshape(
        rounds, 8
    )
    uses = np.bincount(turns.ravel().astype(int), minlength=count)
    assert uses.max() - uses.min() <= 1
    assert abs(np.diff(turns, append=turns[:, :1] + count) - count / 8).max() <= 1
    assert all(len({*one} & {*other}) < 3 for one, other in itertools.pairwise(turns))


@mark.parametrize("memory", [2**29, 1_000])
def test_a_killed_run_goes_on_and_ends_with_the_same_dictionary(
    monkeypatch, tmp_path, activations, learned, memory
):
    monkeypatch.setattr(rows, "POOL", memory)
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "every", 0)
    stored = []
    store = Checkpoint.store

    def dying(self, stepped, seconds):
        store(self, stepped, seconds)
        step = int(stepped[0])
        stored.append(step)
        if step == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "store", dying)
    # One other row is another fit.
    other = activations.copy()
    other[learned.train.numbers[500]] += 0.1
    found = []
    # It goes on from where it was killed, and not from the start.
    for last, x, first in (
        (4, activations, 1),
        (None, other, 1),
        (7, activations, 1),
        (None, activations, 8),
    ):
        stored.clear()
        try:
            found.append(sae_gap.learn(x, WIDTH, L0, visits=5, checkpoint=tmp_path))
        except KeyboardInterrupt:
            assert last
        assert stored[0] == first
    assert not [*tmp_path.glob("*.safetensors")]
    last = None
    again = sae_gap.learn(activations, WIDTH, L0, visits=5)
    assert_array_equal(found[-1].atoms, again.atoms)


def test_a_saved_dictionary_codes_as_before(tmp_path, activations, learned, fresh):
    codes = learned.encode(fresh).toarray()
    scored = learned.fvu(fresh)
    learned.save(tmp_path)
    again = sae_gap.LearnedDictionary.load(tmp_path)
    assert_array_equal(again.atoms, learned.atoms)
    assert_array_equal(again.encode(fresh).toarray(), codes)
    assert (again.l0, again.seconds, again.fvu(fresh)) == (L0, learned.seconds, scored)
    # It has no rows of its own, so a new weight is that of the rows that it codes.
    assert again.encode(5 * fresh, 2.5, refit=False).nnz == approx(150, rel=0.1)
    with raises(ValueError, match=r"given or loaded has no rows; give activations"):
        again.sae()
    whole = sae_gap.LearnedDictionary.load(tmp_path, activations)
    assert (whole.fvu(), whole.lam(2.5)) == (learned.fvu(), learned.lam(2.5))
    content = bytearray((tmp_path / "dictionary.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "dictionary.safetensors").write_bytes(content)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with raises(ValueError, match="has no learned dictionary that can be read"):
            sae_gap.LearnedDictionary.load(folder)


def test_fewer_rows_than_a_width_needs_are_warned_of_before_learning(
    monkeypatch, activations, caplog
):
    def interrupted(*_, **__):
        raise InterruptedError

    monkeypatch.setattr("sae_gap.dictionaries.learn.fit_rows", interrupted)
    for width in (45, 46):
        with raises(InterruptedError):
            sae_gap.learn(activations, width, L0, outliers="keep")
        assert ("are fewer than 20 for each" in caplog.text) == (width == 46)


@mark.parametrize(
    ("encoder", "frozen"),
    [("topk", True), ("jumprelu", False), ("batch_pursuit", True), ("mp", True)],
)
def test_the_saved_sae_is_read_again_with_the_codes_that_were_scored(
    tmp_path, learned, fresh, encoder, frozen
):
    made = learned.save_sae(tmp_path / "sae", encoder=encoder, frozen=frozen, epochs=80)
    sae = sae_gap.load_sae(tmp_path / "sae")
    codes = sae.encode(fresh)
    assert_allclose(codes, made.model.encode(made.model, fresh), atol=1e-5)
    assert (np.count_nonzero(codes, axis=1).max() == L0) == (encoder in ("topk", "mp"))
    assert (agreement(learned, sae) > 1 - 1e-5) == frozen
    held = learned.held_out.take(np.arange(learned.held_out.num_samples))
    assert sae_gap.fvu(held, sae.decode(sae.encode(held))) == approx(made.fvu, rel=1e-4)
    # The start leaves .18, one epoch .16 and 80 epochs .07 at most.
    assert made.fvu < 0.08
    # A trained encoder's codes cannot beat the best ones on the same dictionary.
    assert encoder != "topk" or made.fvu > made.best_fvu
    assert (made.seconds == 0) == (encoder in ("batch_pursuit", "mp"))
    assert f"{made.fvu:.3f}" in repr(made)
    assert ("after import sae_gap.torch.saelens" in repr(made)) == (
        encoder == "batch_pursuit"
    )
    # A pursuit has as many latents on average, on rows that the dictionary did not learn from.
    assert made.seconds or made.l0 == approx(L0, abs=0.01)


@mark.parametrize(
    ("l0", "count", "options", "wanted"),
    [
        # An epoch of some 900 rows is 4 steps, and of 35 it is one.
        (L0, None, {}, (TopK(3), 500, True, 0)),
        (0.4, 35, {}, (TopK(1), 2_000, True, 0)),
        (
            L0,
            35,
            {"k": 2, "encoder": "batchtopk", "epochs": 3, "frozen": False, "seed": 4},
            (BatchTopK(2), 3, False, 4),
        ),
    ],
)
def test_an_sae_is_trained_as_asked_and_else_for_2000_steps(
    monkeypatch, learned, l0, count, options, wanted
):
    def interrupted(learner, rows, width, seed, *_, **__):
        assert (learner.encoder, learner.num_steps, learner.frozen, seed) == wanted
        raise InterruptedError

    monkeypatch.setattr("sae_gap.dictionaries.export.fit_signals", interrupted)
    train = learned.train.take(np.arange(count)) if count else learned.train
    parts = sae_gap.open_activations(train), learned.held_out
    with raises(InterruptedError):
        sae_gap.LearnedDictionary(learned.model, l0, parts=parts).sae(**options)


def test_with_targets_it_trains_a_transcoder_on_their_dictionary(tmp_path, activations):
    y = np.asarray(activations)
    # What is read is far from what is explained, and tells all of it.
    x = np.concatenate([3 * y[:, ::-1] + 1, y[:, :2]], axis=1)
    # Outlier tokens are left out, and inputs stay beside theirs.
    learned = sae_gap.learn(x, WIDTH, L0, targets=y, visits=20, show_progress=False)
    direct = sae_gap.learn(y, WIDTH, L0, visits=20, show_progress=False)
    assert_array_equal(learned.atoms, direct.atoms)
    options = {"epochs": 20, "show_progress": False}
    export = learned.save_sae(tmp_path / "t", skip=True, frozen=False, **options)
    assert export.model.num_inputs == x.shape[1] and export.model.skip is not None
    sae = sae_gap.load_sae(tmp_path / "t")
    held = learned.held_out
    left = sae_gap.fvu(
        held.take(np.arange(held.num_samples)), sae.reconstruct(x[held.numbers])
    )
    assert export.fvu == approx(left, rel=0.05) and left < 0.5
    assert agreement(learned, learned.sae(**options)) > 1 - 1e-5
    # Another session needs both sides again.
    learned.save(tmp_path / "d")
    again = sae_gap.LearnedDictionary.load(tmp_path / "d", x, targets=y).sae(epochs=1)
    assert again.model.num_inputs == x.shape[1]


def test_a_given_dictionary_codes_the_true_concepts_whatever_the_atoms_lengths(
    tmp_path, task
):
    """In double precision, as NumPy makes them; the bias is taken off first."""
    lengths = default_rng(0).uniform(0.1, 9, WIDTH)
    given = sae_gap.dictionary(task.dictionary * lengths, np.arange(30.0), l0=L0)
    x = np.array(task.train.signals[:600]) + given.bias
    x += default_rng(1).normal(scale=0.1 * task.train.signals.std(), size=x.shape)
    assert agreement(given, task.dictionary) == approx(1, abs=1e-5)
    given.save(tmp_path)
    given = sae_gap.LearnedDictionary.load(tmp_path)
    codes = given.encode(x[:300])
    truth = np.asarray(task.train.codes)[:300]
    assert given.certificate < 1e-5 and given.fvu(x[:300]) < 0.05
    assert sae_gap.fvu(x[:300], given.decode(codes)) == approx(
        given.fvu(x[:300]), abs=0.01
    )
    assert np.mean(codes.toarray().argmax(axis=1) == truth.argmax(axis=1)) > 0.9
    # Samples learn from nine tenths, and random atoms nothing.
    for control, scored in {"random": 600, "samples": 60}.items():
        report = given.report(x, controls=(control,))
        assert report.lead.low > 0 and report.curves[0]["dictionary"] == "given"
        assert report.curves[0]["samples"] == scored


@mark.parametrize(
    ("call", "match"),
    [
        (lambda x, d: sae_gap.learn(x, WIDTH, 31), "l0"),
        (lambda x, d: sae_gap.learn(x, 3, 3), "fewer than the 3 atoms"),
        (lambda x, d: sae_gap.learn(np.ones((50, 30), np.float32), WIDTH, L0), "alike"),
        (lambda x, d: d.encode(x[:, :29]), "29 dimensions, but the dictionary 30"),
        (lambda x, d: d.fvu(d.bias + x[:40, :1] * d.atoms[:, 0], l0=5), "no weight"),
        (lambda x, d: d.sae(k=31), "k is 31, .* 7.5, a quarter of the 30 dim"),
        (
            lambda x, d: d.sae(skip=True),
            "^only a transcoder has a skip; give learn the targets",
        ),
        (lambda x, d: d.save_sae("sae_gap"), "there already"),
        (
            lambda x, d: sae_gap.dictionary(np.eye(5)[:, 1:] * [0, 1, 0, 1]),
            "2 of the .* number 0",
        ),
        (
            lambda x, d: sae_gap.dictionary(np.eye(5), np.zeros(4)),
            r"bias must be of shape \(5,\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    activations, learned, call, match
):
    with raises(ValueError, match=match) as error:
        call(activations, learned)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
