"""The lines of a measurement, of rows written by hand."""

from sae_gap.measure import atom_lines


def row(codes, l0, fvu, name="mine", **others):
    about = {"dictionary": name, "codes": codes, "family": "sae", "num_scored": 9, "num_latents": 3}
    return about | {"l0": l0, "fvu": fvu} | others


def test_atoms_of_fewer_than_two_have_no_coherence():
    columns = {"dead_atoms": 0, "duplicates": 1, "coherence": [share / 100 for share in range(101)]}
    rows = [row("lasso", 1, 1, **columns), row("own", 1, 1)]
    rows += [row("lasso", 1, 1, "other", agreement=0.7, **columns | {"coherence": []})]
    one, two = atom_lines(rows)
    assert (one["coherence_median"], one["coherence_95"], one["agreement"]) == (0.5, 0.95, None)
    assert (two["coherence_median"], two["agreement"]) == (None, 0.7)
