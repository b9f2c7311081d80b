"""Whether worlds and their scores are SAELens's: one of its synthetic models, and scores of the same arrays.

SAELens makes a model of SynthSAEBench's law, scaled down, and saves it; `published_world` reads it. Printed are the largest
differences of its constants, z-scores of what 20,000 samples of each say of the same law, and the largest differences of the
scores by the functions of both, of the same random latents. Constants and scores that differ by more than 1e-5, or z-scores
whose standard deviation is above 1.1, are exit code 1.

SAELens brings PyTorch: install it in an environment of its own, by pip install 'sae_gap[peer_saes]'.

  python -m sae_gap peer_worlds
"""

import contextlib
import io
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import cli
from sae_gap.core import matching
from sae_gap.data.worlds import WorldStream, published_world
from sae_gap.data.worlds.firing import firing_of
from sae_gap.metrics import detection, explained
from sae_gap.metrics.atoms import atom_scores

# Constants and scores are the same to here; the spread of z-scores is 1 to here.
TOLERANCE, SPREAD = 1e-5, 1.1
# Features that fire less often than so many times are not told by a normal law.
_FEWEST = 30

FLAGS = flags.FlagValues()
flags.DEFINE_integer("num_latents", 2048, "Features of the world.", lower_bound=64, flag_values=FLAGS)
flags.DEFINE_integer("input_dim", 256, "Dimension of its signals.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("num_samples", 20_000, "Samples of each.", lower_bound=1_000, flag_values=FLAGS)
flags.DEFINE_integer("seed", 42, "Seed of the world.", lower_bound=0, flag_values=FLAGS)


def make(num_latents: int, input_dim: int, seed: int) -> Any:
    """A `SyntheticModel` of SAELens with the law of SynthSAEBench; two thirds of its features are in trees of two levels."""
    from sae_lens import synthetic
    from sae_lens.synthetic.synthetic_model import (
        LowRankCorrelationConfig,
        OrthogonalizationConfig,
        SyntheticModel,
        SyntheticModelConfig,
    )

    trees = synthetic.HierarchyConfig(
        total_root_nodes=num_latents // 32,
        branching_factor=4,
        max_depth=2,
        mutually_exclusive_portion=1.0,
        compensate_probabilities=True,
        scale_children_by_parent=True,
    )
    config = SyntheticModelConfig(
        num_features=num_latents,
        hidden_dim=input_dim,
        firing_probability=synthetic.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
        hierarchy=trees,
        orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
        bias=0.5,
        seed=seed,
    )
    return SyntheticModel(config)


def constants(model: Any, world: Any) -> dict[str, float]:
    """Largest differences of the constants of one world, by SAELens and as they were read."""
    mine, theirs = firing_of(world.law), model.activation_generator
    atoms = WorldStream(world).atoms
    kinds = {
        "rates": (mine.rates, theirs.firing_probabilities),
        "mean magnitudes": (mine.mean, theirs.mean_firing_magnitudes),
        "deviations of magnitudes": (mine.std, theirs.std_firing_magnitudes),
        "atoms": (atoms, model.feature_dict.feature_vectors),
    }
    return {name: float(np.abs(own - other.detach().numpy()).max()) for name, (own, other) in kinds.items()}


def spreads(mine: np.ndarray, theirs: np.ndarray, roots: np.ndarray) -> dict[str, float]:
    """Standard deviations of z-scores, 1 for codes of one law, of rates, of pairs of roots and of second moments.

    Args:
      mine: codes (samples, features).
      theirs: others, as many.
      roots: indices of features whose pairs are looked at.

    Returns:
      By name; features and pairs that are on fewer than 30 times in both together are left out.
    """
    upper = np.triu_indices(len(roots), 1)

    def scores(pairs):
        means, variances = zip(*pairs, strict=True)
        return (means[0] - means[1]) / np.sqrt(variances[0] + variances[1])

    def moments(values):
        return values.mean(axis=0), values.var(axis=0) / len(values)

    def rates(counts, number):
        share = counts / number
        return share, share * (1 - share) / number

    often = (mine > 0).sum(axis=0) + (theirs > 0).sum(axis=0) >= _FEWEST
    together = [((codes[:, roots] > 0).T.astype(float) @ (codes[:, roots] > 0))[upper] for codes in (mine, theirs)]
    seen = sum(together) >= _FEWEST
    found = {
        "rates": scores([moments((codes[:, often] > 0).astype(float)) for codes in (mine, theirs)]),
        "pairs of roots": scores([rates(count[seen], len(mine)) for count in together]),
        "second moments": scores([moments(codes[:, often] ** 2) for codes in (mine, theirs)]),
    }
    return {name: float(np.std(values)) for name, values in found.items()}


def scored(signals: np.ndarray, codes: np.ndarray, truth: np.ndarray, bias: np.ndarray, seed: int) -> dict[str, float]:
    """Differences of the scores of noisy atoms and latents by the functions of both, this suite's less SAELens's."""
    import torch
    from sae_lens import synthetic
    from sae_lens.evals import ExplainedVarianceCalculator

    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(truth))[: len(truth) // 2]
    atoms = truth[chosen] + 0.5 * rng.standard_normal((len(chosen), truth.shape[1])) / truth.shape[1] ** 0.5
    atoms = (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(np.float32)
    latents = codes[:, chosen] * (rng.random((len(codes), len(chosen))) < 0.8)
    latents = (latents + (rng.random(latents.shape) < 0.01)).astype(np.float32)
    match, nearest = matching.match_atoms(atoms.T, truth.T), matching.nearest_atoms(atoms.T, truth.T)
    (firing,) = detection.count(nearest, codes, latents)
    mine = detection.detection(firing) | explained.explained(signals, atoms.T, bias, latents)
    mine |= atom_scores(match, len(atoms), nearest, {})
    drawn, given = torch.from_numpy(latents @ atoms + bias), torch.from_numpy(signals)
    decoder, features, acts = torch.from_numpy(atoms), torch.from_numpy(truth), torch.from_numpy(latents)
    classes = synthetic.compute_classification_metrics(acts, torch.from_numpy(codes), decoder, features)
    variance, shrinkage = ExplainedVarianceCalculator(), synthetic.ShrinkageCalculator()
    l0, dead = synthetic.L0Calculator(), synthetic.DeadLatentsCalculator(len(atoms))
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
    return {name: mine[name] - value for name, value in theirs.items()}


def main() -> None:
    try:
        import torch

        # The library draws a bar of its steps there.
        with contextlib.redirect_stderr(io.StringIO()):
            model = make(FLAGS.num_latents, FLAGS.input_dim, FLAGS.seed)
    except ImportError as error:
        raise cli.UsageError(f"{error.name} is not installed; do so by pip install 'sae_gap[peer_saes]'.") from None
    torch.manual_seed(FLAGS.seed)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        world = published_world(pathlib.Path(folder), num_samples=FLAGS.num_samples)
        stream, firing = WorldStream(world), firing_of(world.law)
        signals, sparse = stream.samples(0, FLAGS.num_samples)
        codes, same = sparse.toarray(), constants(model, world)
    theirs = np.concatenate([model.sample_with_features(1_000)[1].numpy() for _ in range(-(-FLAGS.num_samples // 1_000))])
    spread = spreads(codes, theirs[: len(codes)], np.flatnonzero(firing.level == 0))
    differences = scored(signals, codes, stream.atoms, stream.bias, FLAGS.seed)
    wrong = [name for name, value in (same | differences).items() if not abs(value) <= TOLERANCE]
    wrong += [name for name, value in spread.items() if not value <= SPREAD]
    for title, found in (("constants", same), ("standard deviations of z-scores", spread), ("scores", differences)):
        print(f"{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    if wrong:
        logging.error("differs: %s", ", ".join(wrong))
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, FLAGS)
