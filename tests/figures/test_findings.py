"""What stands over a figure is so: where nothing falls, where all are level, and where there is one of a kind."""

import pytest

from sae_gap import figures
from sae_gap.figures import style

from .samples import make_rows, row, words


def finding(figure):
    """The sentence over a figure, with which its caption opens."""
    said = next(text.get_text().replace("\n", " ") for text in figure.texts if text.get_fontweight() == "bold")
    assert figure.get_label().startswith(said.rstrip("."))
    return said, figure.get_label()[len(said) :].lstrip(".: ")


FALLEN, RISEN, STILL = ("relu", 0.9, 0.4), ("topk", 0.5, 0.7), ("oracle", 0.984, 0.981)
WORST = "MCC falls the most for ReLU SAE (the dictionary's own encoder): it goes from 0.90 to 0.40."


@pytest.mark.parametrize(
    ("ends", "said", "told"),
    [
        ((FALLEN, RISEN, STILL), "1 of 3 methods recovers less", WORST),
        ((FALLEN, ("topk", 0.7, 0.5)), "Both methods recover less", WORST),
        ((RISEN, STILL), "No method recovers less", "MCC of oracle ({}) stays at 0.98."),
        ((RISEN,), "The method recovers no less", "MCC of TopK SAE ({}) goes from 0.50 to 0.70."),
        ((FALLEN,), "The method recovers less", "MCC of ReLU SAE ({}) goes from 0.90 to 0.40."),
    ],
    ids=["one falls", "all fall", "none falls", "one that rises", "one that falls"],
)
def test_recovery_says_how_many_fall_and_which_the_most(ends, said, told):
    found = finding(figures.recovery([row(name, "own", mcc_id=ident, mcc_ood=ood) for name, ident, ood in ends]))
    assert found == (f"{said} out of distribution", told.format("the dictionary's own encoder"))


def stairs(**scores):
    pairs = {name: zip(("own", "lasso"), pair, strict=True) for name, pair in scores.items()}
    rows = [row(name, kind, mcc_ood=score) for name, pair in pairs.items() for kind, score in pair]
    return figures.decomposition([row("oracle", "lasso", mcc_ood=0.9), *rows])


def test_the_stairs_say_who_holds_most_and_whether_anything_is_to_be_held():
    said = [finding(stairs(relu=(0.3, relu), topk=(0.3, 0.8)))[0] for relu in (0.4, 0.8)]
    rest = "holds most of the distance to the oracle in"
    assert said == [f"The dictionary {rest} 1 of 2 SAEs", f"The encoder {rest} 2 of 2 SAEs"]
    assert finding(stairs(topk=(0.3, 0.8)))[0] == "The encoder holds most of the distance of TopK SAE to the oracle"
    assert finding(stairs(relu=(0.898, 0.9), topk=(0.95, 0.9)))[0] == "No SAE falls short of the oracle"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"relu": 1, "topk": 3, "mp": 2}, "TopK SAE finds 75% of the true atoms, MP SAE 50%"),
        ({"relu": 3}, "ReLU SAE finds 75% of the true atoms"),
        ({"relu": 0, "topk": 0, "mp": 0}, "Each of the 3 dictionaries finds 0% of the true atoms"),
        ({"relu": 3, "topk": 3, "mp": 2}, "ReLU SAE and TopK SAE find 75% of the true atoms"),
        ({"relu": 3, "topk": 3, "mp": 3, "gated": 0}, "ReLU SAE and 2 others find 75% of the true atoms"),
    ],
    ids=["one is ahead", "one", "all level", "two level", "three level"],
)
def test_the_best_dictionary_is_named_beside_the_next(found, said):
    rows = [row(name, cosines=[1.0] * count + [0.5] * (4 - count)) for name, count in found.items()]
    assert finding(figures.matched_cosines(rows))[0] == said


def learners(*scores):
    three = zip(("relu", "topk", "mp"), scores, (1, 10, 100), strict=False)
    rows = [row(name, cosine=score, mcc_ood=0.5, fit_seconds=seconds) for name, score, seconds in three]
    return finding(figures.recovery_by_seconds(rows))[0]


def test_the_best_learner_is_ahead_level_or_alone():
    most = "the most of the dictionary"
    assert learners(0.5, 0.8) == f"TopK SAE recovers {most}, in 10 s"
    assert learners(0.5, 0.802, 0.8) == f"TopK SAE and 1 more recover {most}, to a cosine of 0.80"
    assert learners(0.5) == "ReLU SAE recovers the dictionary to a cosine of 0.50 in 1 s"


def along(lines, metric="mcc_ood", **options):
    """What is said of lines of a dictionary and a start over two sizes."""
    rows = [
        row(name, start=start, iterations=count, **{metric: score})
        for (name, start), scores in lines.items()
        for count, score in zip((1, 10), scores, strict=False)
    ]
    return finding(figures.curve(rows, "iterations", metric, **options))[0]


RELU, TOPK = ("relu", "cold"), ("topk", "cold")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({RELU: (0.1, 0.5), TOPK: (0.1, 0.8)}, "at 10 iterations is highest with TopK SAE: 0.80, 0.30 above ReLU SAE"),
        ({RELU: (0.1, 0.8), TOPK: (0.1, 0.8)}, "at 10 iterations is 0.80 with ReLU SAE, level with TopK SAE"),
        ({RELU: (0.1, 0.04), TOPK: (0.1, 0.035)}, "at 10 iterations is highest with ReLU SAE: 0.04, 1.1 times above TopK SAE"),
        ({RELU: (0.1, 0.5)}, "with ReLU SAE goes from 0.10 at 1 iteration to 0.50 at 10 iterations"),
        ({RELU: (0.5, 0.501)}, "with ReLU SAE stays at 0.50 from 1 iteration to 10 iterations"),
        ({RELU: (0.011, 0.014)}, "with ReLU SAE goes from 0.011 at 1 iteration to 0.014 at 10 iterations"),
        ({RELU: (0.5,)}, "with ReLU SAE is 0.50 at 1 iteration"),
    ],
    ids=["ahead", "level", "ahead by little", "one that moves", "one that stays", "one that moves a little", "one point"],
)
def test_a_curve_compares_its_ends(lines, said):
    assert along(lines) == f"MCC out of distribution {said}"


def test_panels_are_counted_by_who_is_ahead_and_without_the_oracles_own():
    options = {"panel": "dictionary", "line": ("dictionary", "start"), "style": "start"}
    ends = {"relu": (0.3, 0.5), "topk": (0.3, 0.6), "mp": (0.5, 0.5), "oracle": (0.9, 0.2)}
    lines = {
        (name, start): (0.1, score) for name, pair in ends.items() for start, score in zip(("cold", "warm"), pair, strict=True)
    }
    metric = "MCC out of distribution at 10 iterations"
    assert along(lines, **options) == f"{metric} is highest with warm start in 2 of 3 panels"
    assert along(dict.fromkeys(lines, (0.1, 0.5)), **options) == f"{metric}: the best two are level in 3 of 3 panels"


def cells(*scores, metric="cosine"):
    rows = [
        row(name, num_latents=width, ratio=1, **{metric: score})
        for name, pair in scores
        for width, score in zip((10, 20), pair, strict=True)
    ]
    return figures.heat_map(rows, "num_latents", "ratio", metric, panel="dictionary")


def test_a_heat_map_says_who_recovers_the_most_or_that_nobody_does():
    above = "matched cosine above 0.9 in"
    assert (
        finding(cells(("relu", (0.95, 0.99)), ("topk", (0.95, 0.2))))[0] == f"ReLU SAE recovers the most: {above} 2 of 2 cells"
    )
    both = cells(("relu", (0.95, 0.2)), ("topk", (0.95, 0.2)))
    assert finding(both)[0] == f"ReLU SAE and 1 more recover the most: {above} 1 of 2 cells"
    assert finding(cells(("relu", (0.95, 0.2))))[0] == f"ReLU SAE has {above} 1 of 2 cells"
    said = "Matched cosine is above 0.9 in no cell; TopK SAE comes closest with 0.70"
    assert finding(cells(("relu", (0.1, 0.2)), ("topk", (0.3, 0.7)), ("oracle", (0.95, 0.95))))[0] == said
    said = "TopK SAE has the best mean squared error: 0.20 on average over the cells"
    assert finding(cells(("relu", (0.3, 0.5)), ("topk", (0.1, 0.3)), metric="mse"))[0] == said


def test_an_encoder_is_closest_of_several_or_close_alone():
    def budget(**gaps):
        rows = [
            row("oracle", name, flops=100 * place, relative_gap_ood=gap, mcc_ood=0.5)
            for place, (name, gap) in enumerate(gaps.items(), 1)
        ]
        return finding(figures.budget(rows))[0]

    assert budget(relu=0.3, topk=0.2) == "TopK comes closest of the encoders: 20.0% above the optimum"
    assert budget(relu=0.3) == "ReLU comes close: 30.0% above the optimum"
    assert budget(relu=0.3, topk=1e-7) == "TopK comes closest of the encoders: at the optimum to 0.1%"


def test_levels_that_are_recovered_alike_are_not_told_apart():
    def levels(**scores):
        return finding(figures.recovery_by_level([row("topk", **{f"atom_mcc_{name}": at for name, at in scores.items()})]))[0]

    assert levels(roots=0.9, children=0.5) == "TopK SAE recovers roots to a cosine of 0.90 and children to 0.50"
    assert levels(roots=0.9, children=0.9) == "TopK SAE recovers features of every level to a cosine of 0.90"
    assert levels(frequent=0.9, rare=0.9) == "TopK SAE recovers features of every frequency to a cosine of 0.90"
    assert levels(free=0.9) == "TopK SAE recovers free features to a cosine of 0.90"


def test_two_numbers_have_as_many_figures_as_tell_them_apart():
    assert style.two_numbers(0.4, 0.9) == ("0.40", "0.90") and style.two_numbers(0.501, 0.502) == ("0.50", "0.50")
    assert style.two_numbers(0.026, 0.034) == ("0.026", "0.034") and style.two_numbers(0.0, 0.0) == ("0.00", "0.00")
    assert any("1 seed" in text for text in words(figures.recovery(make_rows(seeds=(0,)))))
