"""The lines of a measurement, of rows written by hand."""

import pytest

from sae_gap.measure import atom_lines, curve_lines


def row(codes, l0, fvu, name="mine", **others):
    about = {"dictionary": name, "codes": codes, "family": "sae", "num_scored": 9, "num_latents": 3}
    proof = {"own_certificate": 1e-7 * fvu} if codes == "lasso" else {}
    return about | {"l0": l0, "fvu": fvu} | proof | others


OWN = [row("own", 2.0, 0.5), row("own_refit", 2.0, 0.3)]
COMMON = [row("lasso", 4.0, 0.2, level="common"), row("lasso_refit", 4.0, 0.1, level="common")]
COMMON += [row("screened", 4.0, 0.15, level="common")]


@pytest.mark.parametrize(("fvu", "best"), [(0.2, "screened"), (0.3, "lasso_refit")])
def test_the_best_codes_explain_more_at_the_encoders_l0_or_the_common_one(fvu, best):
    rows = [*OWN, *COMMON, row("lasso", 2.0, 0.4, level="own"), row("proposed", 2, 0, level="own")]
    rows += [row("lasso_refit", 2.0, 0.25, level="own"), row("screened", 2.0, fvu, level="own")]
    # Neither a point of the curve nor what has no score counts.
    rows += [row("lasso_refit", 9.0, 0.0, level="own", times=0.7), row("own", 1, None)]
    rows += [each | {"dictionary": "atoms"} for each in COMMON]
    mine, atoms = curve_lines(rows)
    assert (mine["best_codes"], mine["best_fvu"]) == (best, min(fvu, 0.25))
    assert [mine[f"curve_{kind}"] for kind in ("fvu", "refit_fvu")] == [0.4, 0.25]
    assert mine["fvu_ratio"] == pytest.approx(0.5 / mine["best_fvu"])
    assert mine["refit_fvu_ratio"] == pytest.approx(0.3 / mine["best_fvu"])
    assert (mine["at_l0"], atoms["at_l0"], mine["certificate"]) == (2, 4, pytest.approx(4e-8))
    assert (atoms["best_codes"], atoms["best_fvu"]) == ("lasso_refit", 0.1)
    assert "fvu_ratio" not in atoms


def test_atoms_of_fewer_than_two_have_no_coherence():
    columns = {"dead_atoms": 0, "duplicates": 1, "coherence": [share / 100 for share in range(101)]}
    rows = [row("lasso", 1, 1, **columns), row("own", 1, 1)]
    rows += [row("lasso", 1, 1, "other", agreement=0.7, **columns | {"coherence": []})]
    one, two = atom_lines(rows)
    assert (one["coherence_median"], one["coherence_95"], one["agreement"]) == (0.5, 0.95, None)
    assert (two["coherence_median"], two["agreement"]) == (None, 0.7)
