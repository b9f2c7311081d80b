"""Worlds and their scores are SAELens's: a model that it makes and saves is read, sampled and
scored.
"""

import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

from sae_gap.core import matching
from sae_gap.data import WorldStream, firing_of, published_world
from sae_gap.metrics import atom_scores, detection, reconstruction

pytestmark = [mark.peers, mark.filterwarnings("default")]
NUM_LATENTS = 2_048
INPUT_DIM = 256
NUM_SAMPLES = 20_000
SEED = 7
# Events that are seen fewer times are not told by a normal law.
FEWEST = 30


@fixture(scope="module")
def theirs():
    """A model of SAELens with the law of SynthSAEBench; two thirds of its features are in trees of
    two levels.
    """
    import torch
    from sae_lens import synthetic
    from sae_lens.synthetic.synthetic_model import (
        LowRankCorrelationConfig,
        OrthogonalizationConfig,
        SyntheticModel,
        SyntheticModelConfig,
    )

    trees = synthetic.HierarchyConfig(
        total_root_nodes=NUM_LATENTS // 32,
        branching_factor=4,
        max_depth=2,
        mutually_exclusive_portion=1.0,
        compensate_probabilities=True,
        scale_children_by_parent=True,
    )
    config = SyntheticModelConfig(
        num_features=NUM_LATENTS,
        hidden_dim=INPUT_DIM,
        firing_probability=synthetic.ZipfianFiringProbabilityConfig(
            exponent=0.5, max_prob=0.4, min_prob=5e-4
        ),
        hierarchy=trees,
        orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
        bias=0.5,
        seed=SEED,
    )
    torch.manual_seed(SEED)
    return SyntheticModel(config)


@fixture(scope="module")
def world(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    theirs.save(folder)
    return published_world(folder, num_samples=NUM_SAMPLES)


@fixture(scope="module")
def samples(world):
    """Signals and dense codes of this suite."""
    signals, codes = WorldStream(world).samples(0, NUM_SAMPLES)
    return signals, codes.toarray()


def test_the_constants_are_those_of_the_model(theirs, world):
    firing = firing_of(world.law)
    generator = theirs.activation_generator
    for ours, other in (
        (firing.rates, generator.firing_probabilities),
        (firing.mean, generator.mean_firing_magnitudes),
        (firing.std, generator.std_firing_magnitudes),
        (WorldStream(world).atoms, theirs.feature_dict.feature_vectors),
    ):
        assert_allclose(ours, other.detach().numpy(), rtol=0, atol=1e-5)


def z_scores(first, second):
    """Differences of the means of two samples over their standard errors."""
    errors = first.var(axis=0) / len(first) + second.var(axis=0) / len(second)
    return (first.mean(axis=0) - second.mean(axis=0)) / np.sqrt(errors)


def test_samples_differ_as_chance_has_it(theirs, world, samples):
    """Rates, rates of pairs of roots, second moments: the z-scores of two samples of one law have a
    spread of 1.
    """
    ours = samples[1]
    drawn = [
        theirs.sample_with_features(1_000)[1].numpy()
        for _ in range(NUM_SAMPLES // 1_000)
    ]
    other = np.concatenate(drawn)
    often = (ours > 0).sum(axis=0) + (other > 0).sum(axis=0) >= FEWEST
    assert (
        np.std(
            z_scores(*((codes[:, often] > 0).astype(float) for codes in (ours, other)))
        )
        <= 1.1
    )
    assert np.std(z_scores(*(codes[:, often] ** 2 for codes in (ours, other)))) <= 1.1
    roots = np.flatnonzero(firing_of(world.law).level == 0)
    pairs = np.triu_indices(len(roots), 1)
    on = [(codes[:, roots] > 0).astype(float) for codes in (ours, other)]
    rates = [(part.T @ part)[pairs] / NUM_SAMPLES for part in on]
    seen = sum(rates) * NUM_SAMPLES >= FEWEST
    errors = sum(rate * (1 - rate) / NUM_SAMPLES for rate in rates)
    assert np.std((rates[0] - rates[1])[seen] / np.sqrt(errors[seen])) <= 1.1


def test_scores_of_the_same_latents_are_the_same(world, samples):
    """Of noisy atoms of every other feature, whose latents miss a fifth of what fires and fire at
    random.
    """
    import torch
    from sae_lens import synthetic
    from sae_lens.evals import ExplainedVarianceCalculator

    signals, codes = samples
    stream = WorldStream(world)
    rng = default_rng(0)
    truth = stream.atoms
    chosen = rng.permutation(NUM_LATENTS)[: NUM_LATENTS // 2]
    atoms = (
        truth[chosen]
        + 0.5 * rng.standard_normal((len(chosen), INPUT_DIM)) / INPUT_DIM**0.5
    )
    atoms = (atoms / norm(atoms, axis=1, keepdims=True)).astype(np.float32)
    latents = codes[:, chosen] * (rng.random((len(codes), len(chosen))) < 0.8)
    latents = (latents + (rng.random(latents.shape) < 0.01)).astype(np.float32)
    match = matching.match_atoms(atoms.T, truth.T)
    nearest = matching.nearest_atoms(atoms.T, truth.T)
    ours = detection.detection(detection.count(nearest, codes, latents))
    ours |= reconstruction.r2_and_shrinkage(signals, latents @ atoms + stream.bias)
    ours |= atom_scores(match, len(atoms), nearest, {})

    drawn = torch.from_numpy(latents @ atoms + stream.bias)
    given = torch.from_numpy(signals)
    decoder = torch.from_numpy(atoms)
    features = torch.from_numpy(truth)
    acts = torch.from_numpy(latents)
    classes = synthetic.compute_classification_metrics(
        acts, torch.from_numpy(codes), decoder, features
    )
    variance = ExplainedVarianceCalculator()
    shrinkage = synthetic.ShrinkageCalculator()
    l0 = synthetic.L0Calculator()
    dead = synthetic.DeadLatentsCalculator(len(atoms))
    for counted in (l0, dead):
        counted.add_batch(acts)
    for compared in (variance, shrinkage):
        compared.add_batch(drawn, given)
    theirs = {
        "precision": classes.precision,
        "recall": classes.recall,
        "f1": classes.f1_score,
        "detector_accuracy": classes.accuracy,
        "r2": variance.compute(),
        "shrinkage": shrinkage.compute(),
        "fired": l0.compute(),
        "dead": dead.compute(),
        "atom_mcc": synthetic.mean_correlation_coefficient(decoder, features),
        "uniqueness": synthetic.feature_uniqueness(decoder, features),
    }
    assert {name: ours[name] for name in theirs} == approx(theirs, rel=0, abs=1e-5)
