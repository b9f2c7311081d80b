"""The rules of families, a file each: four repairs mend what decorrelating children from their
parents cannot.

README.md in the folder above has the problem, the equations, the schedule and a table of the
thresholds. Here p and c are concepts of a parent and its child, and u and v are atoms. An atom is
on in a sample, which uses it, where its code is positive. Its ray is the mean of what it and the
atoms that it is compared with explain where it is on.

All atoms are treated at once, in arrays whose shapes do not depend on what is found. So the index
`num_latents` stands for "no atom": JAX reads the last atom in its place, which is then ignored, and
drops what is assigned to it.
"""
