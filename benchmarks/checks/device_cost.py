"""What the certified coder costs an accelerator, counted without one: turns of its loops, and the
least time that they leave.

An accelerator takes every loop in step for all samples, so that turns are what there is to save. A
*round* is one product with the dictionary and the lasso on some slots, and each of its *pivots*
reads and writes a tableau a sample. The count is made on a CPU that takes the accelerator's path.
The least time of a product is that of its operations, and that of a pivot what memory takes,
both of an NVIDIA H100 (SXM: 67 TFLOP/s in float32, 3.35 TB/s); nothing else is counted, so that a
device takes longer.

With `--compile` the coder's program for the first number of slots is compiled as well, for an H100
or for a TPU v5e that need not be there: install jax-cuda13-pjrt or libtpu of JAX's own version.

  python -m sae_gap device_cost
  python -m sae_gap device_cost --samples=10000 --compile=h100
"""

import collections
import dataclasses
import re
import time
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import cli
from benchmarks.options import Options, option
from sae_gap.analysis import tables
from sae_gap.solvers import coding, pivoting, slots, sparse_code, working_set

# Dimensions, latents, latents that are on, and λ.
PROBLEMS = ((93, 1_000, 10, 0.1), (221, 1_000, 32, 0.1), (768, 16_384, 32, 0.1))
# Operations and bytes a second of an NVIDIA H100 SXM, by its data sheet.
FLOPS, BYTES = 67e12, 3.35e12
# Matches the kernels that XLA launches in a compiled program.
KERNEL = r" = \S+ (?:fusion|custom-call|copy|sort|dot|scatter|reduce|convolution)\("
# XLA's description of an H100 SXM (its `GpuTargetConfig`).
H100 = """
gpu_device_info { threads_per_block_limit: 1024
threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048
core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: 3352320000000 l2_cache_size: 52428800
clock_rate_ghz: 1.98 device_memory_size: 84942979072
shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceCostOptions(Options):
    """The options of `device_cost`."""

    samples: int = option(500, "Samples that are coded together.", least=1)
    compile: str = option("", "For which device to compile.", choices=("", "h100", "v5e"))


def draw(samples: int, input_dim: int, num_latents: int, sparsity: int):
    """Signals that are sparse on unit Gaussian atoms, with a little noise."""
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(input_dim, num_latents)).astype(np.float32)
    dictionary /= np.linalg.norm(dictionary, axis=0)
    signals = 0.01 * rng.normal(size=(samples, input_dim)).astype(np.float32)
    for row in signals:
        on = rng.choice(num_latents, sparsity, replace=False)
        row += dictionary[:, on] @ rng.uniform(0.5, 1.5, sparsity).astype(np.float32)
    return signals, dictionary


def count(signals, dictionary, lam: float):
    """The solution, and the turns of each loop by its module and its number of slots."""
    turns: collections.Counter = collections.Counter()
    loop = lax.while_loop

    def counted(cond, body, start):
        slots = max(np.shape(leaf)[1] for leaf in jax.tree.leaves(start) if np.ndim(leaf) == 2)
        key = cond.__module__, slots

        def step(carry):
            jax.debug.callback(lambda: turns.update([key]))
            return body(carry)

        return loop(cond, step, start)

    # Programs compiled before count nothing, and nobody else may use those that count.
    jax.clear_caches()
    with mock.patch.object(lax, "while_loop", counted):
        solution = sparse_code(signals, dictionary, lam, solver="working_set_xla")
        jax.effects_barrier()
    jax.clear_caches()
    return solution, turns


def target(device: str) -> NamedSharding:
    """A place on a device that need not be there; call it before JAX looks for devices."""
    try:
        if device == "h100":
            config = {"target_config": H100, "topology": "1x1x1"}
            found = topologies.get_topology_desc("h100", "cuda", **config)
        else:
            found = topologies.get_topology_desc("v5e:2x2x1", "tpu")
    except (NotImplementedError, RuntimeError) as error:
        name = {"h100": "jax-cuda13-pjrt", "v5e": "libtpu"}[device]
        raise ValueError(
            f"no compiler for {device} is here; install {name} of the version of jax."
        ) from error
    return NamedSharding(Mesh(found.devices[:1], "x"), PartitionSpec())


def compiled(here: NamedSharding, shape: tuple[int, int], samples: int) -> dict[str, str | int]:
    """Facts on the coder's program for the first number of slots, compiled for a place."""
    width = next(working_set.widths(*shape))

    def solve(signals, dictionary, lam):
        scaled = coding.scale_problem(signals, dictionary, lam, equalise=True)
        own, column, _ = coding._posed(scaled, None)
        problem, own = slots.pose(own, dictionary, column, tol=1e-6, limit=1_000, nonneg=True)
        begun = working_set.begin(problem, own, None, width)
        return working_set.solve_on(problem, own, begun, width)

    given = (samples, shape[0]), shape, (1, 1)
    structs = [jax.ShapeDtypeStruct(each, np.float32, sharding=here) for each in given]
    began = time.perf_counter()
    program = jax.jit(solve).lower(*structs).compile()
    seconds = time.perf_counter() - began
    text = program.as_text() or ""
    kernels = {}
    for name in re.findall(r"body=%?([\w.\-]+)", text):
        body = re.search(rf"(?m)^%?{re.escape(name)} [^\n]*\{{\n(.*?)\n\}}", text, re.S)
        lines = body[1] if body else ""
        inner = "while(" in lines
        kernels["round" if inner else "pivot"] = len(re.findall(KERNEL, lines))
    memory: Any = program.memory_analysis()
    return {
        "compiled in s": f"{seconds:.0f}",
        "kernels a round": kernels.get("round", 0),
        "kernels a pivot": kernels.get("pivot", 0),
        "MB": round(memory.temp_size_in_bytes / 1e6),
    }


def main(options: DeviceCostOptions) -> None:
    lines: list[dict[str, str | int]] = []
    place = target(options.compile) if options.compile else None
    for input_dim, num_latents, sparsity, lam in PROBLEMS:
        signals, dictionary = draw(options.samples, input_dim, num_latents, sparsity)
        solution, turns = count(signals, dictionary, lam)
        rounds = sum(n for (name, _), n in turns.items() if name == working_set.__name__)
        pivots = {w: n for (name, w), n in turns.items() if name == pivoting.__name__}
        product = 2 * options.samples * input_dim * num_latents / FLOPS
        traffic = sum(n * 8 * options.samples * w**2 for w, n in pivots.items()) / BYTES
        lines.append(
            {
                "problem": f"{input_dim} × {num_latents:,}",
                "L0": f"{np.mean(np.sum(np.asarray(solution.codes) != 0, axis=1)):.1f}",
                "certified": f"{np.mean(solution.converged):.1%}",
                "rounds": rounds,
                "pivots": sum(pivots.values()),
                "µs a product": f"{1e6 * product:.0f}",
                "µs all products": f"{1e6 * product * rounds:.0f}",
                "µs all pivots": f"{1e6 * traffic:.0f}",
            }
        )
        if place is not None:
            lines[-1] |= compiled(place, (input_dim, num_latents), options.samples)
    print(tables.format_table(lines, {name: name for name in lines[0]}))


if __name__ == "__main__":
    cli.run(main)
