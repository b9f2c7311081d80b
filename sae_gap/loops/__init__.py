"""The compiled loops of a CPU, which solve each sample of a block on its own atoms.

`README.md` in the folder above has the mathematics. `host` calls `active_set.code_block`, the
certified coder. `host_pursuits` calls `pursuit.pursue_block` and `pursuit.add_products`, the
pursuit that learns dictionaries, `matching.match_block`, orthogonal matching pursuit, and
`proximal.iterate_block`, iterations of FISTA. The coder works in double precision, except for
products with all atoms, which separate the atoms that may exceed their weight from the others. The
other loops, which certify nothing, compute correlations in the precision of the signals.

Numba compiles these five and caches them; the cache is renewed when a file of this folder changes,
but not when another one does. So all functions that they call are here, and sizes and settings from
other files are arguments. No loop allocates memory or takes Python's lock; nor does one assign an
array to a slice, since Numba would spend seconds on compiling its error message for wrong shapes.
"""
