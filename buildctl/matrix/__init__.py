"""Stage 1, what is wanted: matrix.yaml to values, every problem with its line.

Start with `read.load_matrix`, which returns a `matrix.Matrix` of `cells.Cell`s and of combinations that cannot
exist. Parsed once: nothing beyond this folder looks at YAML. `project.Project` says where the files of a project
are. `arch` is the one table of architectures, `account` what every image has: its user, home and PATH.

May import: ground, console.
"""
