"""The compiled loops of a CPU: each sample of a block is solved on atoms of its own.

`README.md` in the folder above has the mathematics. `host` calls `active_set.code_block`, the
certified coder. `host_pursuits` calls `pursuit.pursue_block` and `pursuit.add_products`, the
pursuit that learns dictionaries, `matching.match_block`, orthogonal matching pursuit, and
`proximal.iterate_block`, iterations of FISTA. The coder works in double precision but for products
with all atoms, which tell those that may exceed their weight from those that cannot. The others,
which certify nothing, have correlations in the precision of the signals.

Numba compiles these five and keeps them in its cache, which is renewed when a file of this folder
changes and not when another one does. So whatever they call stands here, and sizes and settings of
other files come as arguments. Nothing allocates within a loop, or takes Python's lock; nor is an
array assigned to a slice, for whose error in shape Numba would compile a sentence for seconds.
"""
