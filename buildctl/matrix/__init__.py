"""Stage 1, what is wanted: matrix.yaml to values, every problem with its line.

Start with `read.load_matrix`, which returns a `matrix.Matrix` of `cells.Cell`s and of combinations that cannot
exist. Parsed once: nothing outside this folder reads YAML. `project.Project` says where the files of a project
are.

May import: ground, console.
"""
