"""Rows to draw, and how to read a drawing."""

import itertools

import matplotlib
import numpy as np
from matplotlib.container import ErrorbarContainer

SETTING = {"num_latents": 100, "sparsity": 10, "num_samples": 5_000, "input_dim": 47}
SETTING |= {"lam": 0.1, "protocol": "strict"}
SAES = ("relu", "topk", "jumprelu", "mp")


def make_rows(seeds=(0, 1, 2), saes=SAES, spread=0.02, **setting):
    """Rows of the headline. The names of the methods say nothing, so that nothing can be read out
    of them.
    """
    codes = ("sae own", "support support", "frozen lasso cold", "refined lasso warm")
    methods = [(name, *kind.split()) for name in saes for kind in codes]
    methods += [("linear_probe", "probe", "own")]
    methods += [("dl_fista", "dictionary_learning", "lasso", "cold")]
    methods += [("oracle", "oracle", "lasso", "cold")]
    rows = []
    for (place, (name, *kind)), seed in itertools.product(enumerate(methods), seeds):
        score = (
            0.3 + place / 30 + spread * np.sin(7 * seed + place) * (name != "oracle")
        )
        found = row(
            name, seed=seed, method=f"m{place}", mcc_id=score, mcc_ood=0.9 * score
        )
        found |= (
            dict(zip(("family", "inference", "start"), [*kind, None], strict=False))
            | setting
        )
        cosines = [*np.linspace(score / 2, score, 50)]
        rows.append(found | {"cosines": None if kind[0] == "probe" else cosines})
    return rows


def row(dictionary, inference=None, **values):
    """A row of a method that is named after its dictionary and inference."""
    told = {"method": f"{dictionary} {inference}", "seed": 0}
    return SETTING | told | {"dictionary": dictionary, "inference": inference} | values


def choose(rows, **values):
    return [
        row
        for row in rows
        if all(row.get(name) == value for name, value in values.items())
    ]


def said(texts):
    # A title that is too long for its line wraps.
    return [text.get_text().replace("\n", " ") for text in texts]


def words(figure):
    return said(figure.findobj(matplotlib.text.Text))


def curves(axes):
    """x, y, lower and upper ends of the whiskers of each line of an axes with its colour."""
    found = []
    for container in (
        one for one in axes.containers if isinstance(one, ErrorbarContainer)
    ):
        line, _, whiskers = container.lines
        if line.get_linestyle() != "None" and whiskers:
            ends = np.array(whiskers[-1].get_segments())[:, :, 1]
            found.append((line.get_color(), *line.get_data(), ends[:, 0], ends[:, 1]))
    return found
