"""The rules of families, a file each: four repairs for faults that decorrelating children from
their parents cannot mend.

README.md in the folder above has the problem, the equations, the schedule and a table of the
thresholds. Here p and c are concepts of a parent and its child, and u and v are atoms. An atom is
on in a sample, which uses it, if its code is positive. Its ray is the mean, where it is on, of what
it and the atoms that it is compared with explain.

All atoms are treated at once, in arrays of fixed shapes. So the index `num_latents` stands for "no
atom": JAX reads the last atom in its place, which is then ignored, and drops assignments to it.
"""
