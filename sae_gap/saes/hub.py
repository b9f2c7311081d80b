"""Finds published SAEs in the cache of the Hugging Face hub, where SAELens and `hf download` put
them; downloads nothing.
"""

import os
import re
from pathlib import Path

from sae_gap.storage import package_folders, printable


def cached(release: str, sae_id: str) -> Path:
    """The folder of an SAE in the cache.

    The cache is the first of `HF_HUB_CACHE`, `HF_HOME/hub` and `~/.cache/huggingface/hub` that is
    set.

    Args:
      release: a repository `org/name`, a name in SAELens's table if `sae_lens` is installed, or the
        `name` of a repository in the cache.
      sae_id: the SAE's name in that table, or its path in the repository.

    Returns:
      The folder.

    Raises:
      ValueError: the release is not known, or the SAE is not in the cache; the message says how to
        get it.
    """
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    repository, inside = _of_saelens(release, sae_id) or (release, sae_id)
    if "/" not in repository:
        found = [
            path.name.split("--")[1] for path in sorted(cache.glob(f"models--*--{repository}"))
        ]
        if len(found) != 1:
            many = f"{len(found)} repositories" if found else "no repository"
            fault = (
                f"{printable(release)} names {many} in {cache}, and no release of an installed "
                "SAELens"
            )
            raise ValueError(f"{fault}; give the repository as org/name.")
        repository = f"{found[0]}/{repository}"
    folder = cache / f"models--{repository.replace('/', '--')}"
    revision = folder / "refs" / "main"
    name = revision.read_text().strip() if revision.is_file() else "main"
    place = folder / "snapshots" / name / inside
    if not place.exists():
        get = f"hf download {printable(repository)} --include '{printable(inside)}/*'"
        raise ValueError(
            f"{printable(inside)} of {printable(repository)} is not in {cache}; get it by {get}."
        )
    return place


def _of_saelens(release: str, sae_id: str) -> tuple[str, str] | None:
    """The repository and the path of an SAE from an installed SAELens's table, which is read
    without an import.
    """
    tables = "".join(
        (folder / "pretrained_saes.yaml").read_text("utf-8")
        for folder in package_folders("sae_lens")
    )
    # Parsing the whole table takes seconds.
    block = re.search(rf"^{re.escape(release)}:\n(?:[ -].*\n|\n)*", tables, re.MULTILINE)
    if block is None:
        return None
    import yaml  # type: ignore[import-untyped]

    listed = yaml.safe_load(block[0])[release]
    paths = {entry["id"]: entry["path"] for entry in listed["saes"]}
    if sae_id not in paths:
        raise ValueError(
            f"{printable(release)} has no SAE {printable(sae_id)}, but "
            f"{', '.join(list(paths)[:12])}; give one of them."
        )
    return listed["repo_id"], paths[sae_id]
