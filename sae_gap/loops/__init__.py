"""The compiled loops of a CPU, which solve each sample of a block on its own atoms.

`sae_gap/solvers/README.md` has the mathematics. `solvers.host` calls `active_set.code_block`, the
certified coder, whose records are in `block`. `solvers.host_learning` calls `reweighted.code_block`
and `reweighted.add_products`, the reweighted lasso that learns dictionaries, and
`proximal.iterate_block`, iterations of FISTA. `host` here, which imports no JAX, calls
`screened.pursue_block`, the screened pursuit, which is orthogonal matching pursuit on all atoms.

The coder works in double precision, except for products with all atoms, which separate the atoms
that may exceed their weight from the others. The other loops, which certify nothing, compute in the
precision of the signals.

Numba compiles these and caches them; the cache is renewed when a file of this folder changes, or a
number that the file of a loop imports, but not when another file does. So all functions that they
call are here, and sizes and other settings are arguments. No loop takes Python's lock; nor does
one assign an array to a slice, since Numba would spend seconds on compiling its error message for
wrong shapes.
"""
