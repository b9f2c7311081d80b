"""The flags that whatever trains on activations of one's own has."""

from absl import flags

from benchmarks import cli


def define(values: flags.FlagValues) -> None:
    """Defines them."""
    flags.DEFINE_string("activations", None, "File or folder of activations.", flag_values=values)
    flags.DEFINE_string("key", None, "Name of the array, where there are several.", flag_values=values)
    flags.DEFINE_integer("width", 3072, "Atoms to learn, the width of each dictionary.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("sparsity", 32, "Mean L0 to train and to compare at.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("epochs", 8, "Passes of an SAE over the training rows.", lower_bound=0.01, flag_values=values)
    flags.DEFINE_integer("batch_size", 256, "Rows to a step of an SAE.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of what is learned.", flag_values=values)
    flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=values)


def check(values: flags.FlagValues, name: str, choices: list[str]) -> None:
    """Raises a UsageError where they do not fit, or the list flag of this name is not of some choices."""
    cli.require_one_of(name, getattr(values, name), choices)
    if values.activations is None:
        raise cli.UsageError("--activations is needed: a file or a folder, such as make real writes.")
    if values.sparsity >= values.width:
        raise cli.UsageError(f"--sparsity must be below the {values.width} atoms, but it is {values.sparsity}.")
