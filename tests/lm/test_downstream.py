"""Losses downstream against NumPy the long way, the scores of libraries by hand, and what is
replaced and averaged.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark, raises

from sae_gap.lm import Downstream, Network, Windows, cut_open, read_out, rows_left

# Two rows of eight places: a text of five tokens with one of two, and one of six. 0 is a special
# token.
SEGMENTS = np.array([[0, 0, 0, 0, 0, 1, 1, -1], [0, 0, 0, 0, 0, 0, -1, -1]])
# Places of padding go on, as if there were a next token.
POSITIONS = np.array([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]])
TOKENS = np.array([[3, 1, 4, 1, 5, 2, 6, 0], [2, 0, 5, 3, 4, 6, 0, 0]])
FOLLOWING = np.roll(TOKENS, -1, axis=1)[..., None]
REAL = SEGMENTS >= 0
DIM = 5
VOCABULARY = 7
RNG = default_rng(0)
EMBEDDING, UNEMBEDDING = RNG.normal(size=(2, VOCABULARY, DIM)).astype(np.float32)
MIX = RNG.normal(size=(DIM, DIM)).astype(np.float32)


def windows(rows=slice(None), kind=jnp.int32):
    parts = zip(
        (TOKENS, SEGMENTS, POSITIONS), (kind, jnp.int32, jnp.int32), strict=True
    )
    return Windows(*(jnp.asarray(part[rows], kind) for part, kind in parts))


def before(batch):
    # The first token of each text is outliers.
    return EMBEDDING[batch.tokens] * np.where(batch.positions == 0, 1_000, 1)[..., None]


def after(hidden, batch):
    """A token and half of the one before it, whichever text that is of: what is put at one place is
    felt at the next.
    """
    return jnp.tanh(hidden @ MIX + 0.5 * jnp.roll(hidden, 1, axis=1) / 10)


NETWORK = Network(before, after, UNEMBEDDING)


def log_probabilities(hidden):
    logits = np.asarray(after(hidden, None) @ UNEMBEDDING.T, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def expected(guess, scored, replaced):
    """Cross-entropy and divergence the long way."""
    clean = np.where(REAL[..., None], before(windows()), 0)
    patched = clean.copy()
    patched[REAL] = np.where(replaced[:, None], guess, clean[REAL])
    p = log_probabilities(clean)
    q = log_probabilities(patched)
    ce = []
    kl = []
    for row, place in np.argwhere(REAL)[scored]:
        ce.append(-q[row, place, TOKENS[row, place + 1]])
        kl.append(np.sum(np.exp(p[row, place]) * (p[row, place] - q[row, place])))
    return np.array(ce), np.array(kl)


@mark.parametrize("outliers", ["drop", "keep"])
def test_nats_are_those_of_numpy(outliers, monkeypatch):
    monkeypatch.setattr(read_out, "CHUNK", 4)
    found = Downstream(
        NETWORK,
        [windows([0]), windows([1], jnp.uint16)],
        first=1,
        special=(0,),
        outliers=outliers,
    )
    positions = POSITIONS[REAL]
    tokens = TOKENS[REAL]
    replaced = (tokens != 0) & ((positions > 0) | (outliers == "keep"))
    assert_array_equal(found.replaced, replaced)
    # The last token of each text has no next one within it.
    scored = replaced & (positions > 0) & ~np.isin(np.arange(13), [4, 6, 12])
    assert_array_equal(found.scored, scored)
    assert_array_equal(found.tokens, [3, 0, 3])
    guess = RNG.normal(size=found.activations.shape).astype(np.float32)
    for rows, nats, every in (
        (guess, found.nats(guess), replaced),
        (0 * guess, found.zero, np.ones(13, bool)),
        (found.activations[replaced].mean(axis=0) + 0 * guess, found.mean, replaced),
        (found.activations, found.clean, replaced),
    ):
        ce, kl = expected(rows, scored, every)
        assert_allclose(nats.ce, ce, rtol=1e-5, atol=1e-5)
        assert_allclose(nats.kl, kl, rtol=1e-4, atol=1e-5)
    assert_array_equal(found.nats(found.activations).kl, 0)
    score = found.score(guess)
    nats = found.nats(guess)
    ce = nats.ce.mean()
    clean = found.clean.ce.mean()
    wanted = {"ce": ce, "delta_ce": ce - clean, "kl": nats.kl.mean()}
    for end, ablated in (("", found.zero), ("_mean", found.mean)):
        wanted["ce_score" + end] = (ablated.ce.mean() - ce) / (
            ablated.ce.mean() - clean
        )
        wanted["kl_score" + end] = 1 - nats.kl.mean() / ablated.kl.mean()
    assert {name: score[name] for name in wanted} == approx(wanted)
    assert_allclose(score["kl_sums"], [nats.kl[:3].sum(), 0, nats.kl[3:].sum()])


def test_a_model_is_cut_open_after_a_block_or_at_its_mlp(lm):
    model = lm.model
    batch = windows()
    stream, mlp = (
        Downstream.of_model(model, [batch], 1, first=0, mlp=at_mlp)
        for at_mlp in (False, True)
    )
    start = model.run_blocks(model.embed(batch), batch, 0, 1)
    hidden = np.array(model.run_blocks(start, batch, 1, 2))
    read, added = (np.asarray(part)[REAL] for part in model.run_mlp(start, batch, 1))
    close = functools.partial(assert_allclose, rtol=1e-5)
    close(stream.activations, hidden[REAL])
    close(mlp.inputs, read)
    close(mlp.activations, added)
    hidden[REAL] += 1
    q = model.log_probabilities(model.run_blocks(hidden, batch, 2, 3))
    ce = -np.take_along_axis(q, FOLLOWING, 2)[REAL][stream.scored, 0]
    for found in (stream, mlp):
        close(found.nats(found.activations + 1).ce, ce)
    close(mlp.zero.ce, stream.nats(stream.activations - added).ce)
    close(mlp.sensitivity(), stream.sensitivity(), rtol=1e-3, atol=1e-6)
    with raises(
        ValueError, match="layer must be an integer of at least 0 and of at most 2"
    ):
        cut_open(model, 3)


def test_layers_replaced_together_are_run_by_hand(lm):
    """The later map sees what the earlier leaves; exact ones cost nothing, and one alone as much as
    ever.
    """
    model = lm.model
    batch = windows()
    hidden = model.embed(batch)
    # Each leaves tokens as they are that the other replaces.
    nets = [
        Downstream(cut_open(model, 0), [batch], first=1, special=[4]),
        Downstream(cut_open(model, 1), [batch], first=1, special=[5]),
    ]
    maps = [lambda rows: 0.9 * rows + 0.1, lambda rows: rows**2 / 4]
    p = model.log_probabilities(model.run_blocks(hidden, batch, 0, 3))
    for block, net in enumerate(nets):
        hidden = np.array(model.run_blocks(hidden, batch, block, block + 1))
        there = np.zeros(REAL.shape, bool)
        there[REAL] = net.replaced
        hidden[there] = maps[block](hidden[there])
    q = model.log_probabilities(model.run_blocks(hidden, batch, 2, 3))
    scored = nets[0].scored & nets[1].scored
    of = nets[0].documents[scored]
    nats = [jnp.sum(jnp.exp(p) * (p - q), axis=-1)]
    nats += [-jnp.take_along_axis(each, FOLLOWING, 2)[..., 0] for each in (q, p)]

    def together(maps):
        rows = rows_left(
            model, dict(enumerate(nets)), lambda block, rows: maps[block](rows)
        )
        left = nets[1].left(rows, nets[0].scored)
        assert_array_equal(left.unchanged, nets[1].activations)
        assert_array_equal(left.scored, scored)
        cost = left.nats(maps[1](rows))
        return [left.by_document(each) for each in (cost.kl, cost.ce - left.clean.ce)]

    found = [*together(maps), nets[1].left(nets[1].activations, scored).tokens]
    exact = [*together([lambda rows: rows] * 2), found[2]]
    with raises(ValueError, match="no token is scored at every layer"):
        nets[1].left(nets[1].activations, ~nets[1].scored)
    wanted = nats[0], nats[1] - nats[2], np.ones(REAL.shape)
    wanted = [np.bincount(of, each[REAL][scored], 3) for each in wanted]
    assert_allclose(found, wanted, rtol=1e-4)
    assert_allclose(exact, [*np.zeros((2, 3)), wanted[2]], atol=1e-5)


def made(**options):
    options = {"network": NETWORK, "first": 1} | options
    return Downstream(batches=[windows()], **options)


FAULTS = {
    "give longer texts": lambda: made(first=5),
    r"documents must be 13 integers, one for each token, but": lambda: made(
        documents=[0, 1]
    ),
    "first must be an integer of at least 0": lambda: made(first=1.5),
    "token 6 is beyond the 6 rows of the unembedding; give": lambda: made(
        network=NETWORK._replace(unembedding=UNEMBEDDING[:6])
    ),
    r"must be of shape \(13, 5\), but it is \(12, 5\)": lambda: made().nats(
        np.ones((12, 5))
    ),
}


@mark.parametrize("fault", FAULTS)
def test_what_cannot_be_scored(fault):
    with raises(ValueError, match=fault):
        FAULTS[fault]()


def test_documents_join_windows():
    assert_array_equal(
        made(first=4, documents=np.repeat([7, 9], [7, 6])).tokens, [0, 1]
    )


def test_sensitivity_is_the_fisher_information_of_the_next_tokens():
    """Against the Jacobian of all probabilities, of which many copies of the texts draw a mean."""
    options = {"first": 1, "special": (0, 4)}
    replaced = np.zeros(REAL.shape, bool)
    replaced[REAL] = Downstream(NETWORK, [windows()], **options).replaced
    copies = [windows(np.tile([0, 1], 500))] * 2
    drawn = Downstream(NETWORK, copies, **options).sensitivity()
    whole = np.where(REAL[..., None], before(windows()), 0)
    exact = np.zeros((DIM, DIM))

    def logits(hidden):
        return after(hidden[None], None)[0] @ UNEMBEDDING.T

    slopes = jax.jit(jax.jacobian(logits))
    for row in range(2):
        chances = np.exp(log_probabilities(whole[row][None])[0])[REAL[row]]
        by_row = np.asarray(slopes(whole[row]), np.float64)[REAL[row]]
        for place in np.flatnonzero(replaced[row]):
            for p, j in zip(chances, by_row[:, :, place], strict=True):
                exact += j.T @ (np.diag(p) - np.outer(p, p)) @ j
    exact /= replaced.sum()
    assert_allclose(drawn, exact, atol=0.05 * np.abs(exact).max())
