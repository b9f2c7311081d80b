"""SAEs in a cache as the Hugging Face hub lays it out."""

import shutil

import numpy as np
import pytest

import sae_gap
from tests.saes.examples import FILES, refused


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Of one repository with two revisions, of which the older lacks the SAE; SAELens is not
    installed.
    """
    folder = tmp_path / "home" / "hub" / "models--some--saes-of-two"
    for part in ("refs", "snapshots/old", "snapshots/new/layer_3"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text("new")
    shutil.copytree(FILES / "saelens/jumprelu", folder / "snapshots/new/layer_3/wide")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path


def test_an_sae_is_found_by_its_repository_and_by_the_name_of_that(cache, monkeypatch):
    own = sae_gap.load_sae(FILES / "saelens/jumprelu")
    for release in ("some/saes-of-two", "saes-of-two"):
        sae = sae_gap.load_sae(release, "layer_3/wide")
        np.testing.assert_array_equal(sae.model.decoder, own.model.decoder)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "home" / "hub"))
    monkeypatch.setenv("HF_HOME", str(cache / "elsewhere"))
    assert sae_gap.load_sae("some/saes-of-two", "layer_3/wide").notes == own.notes


def test_an_sae_is_found_by_the_table_of_saelens_which_is_not_imported(cache, monkeypatch):
    package = cache / "packages" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "pretrained_saes.yaml").write_text(
        "two-res:\n  repo_id: some/saes-of-two\n  saes:\n  - {id: blocks.3, path: layer_3/wide}\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    for release in (("two-res", "blocks.3"), ("some/saes-of-two", "layer_3/wide")):
        assert sae_gap.load_sae(*release).architecture == "jumprelu"
    words = "two-res has no SAE blocks.4, but blocks.3; give"
    refused(lambda: sae_gap.load_sae("two-res", "blocks.4"), words)


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("some/saes-of-two", "get it by hf download some/saes-of-two --include 'layer_4/*'."),
        ("saes", "give the repository as org/name."),
    ],
)
def test_what_is_not_in_the_cache_is_said_with_the_command_that_gets_it(cache, release, words):
    refused(lambda: sae_gap.load_sae(release, "layer_4"), words)
