"""Stage 3, the plan as text: Dockerfiles and the bake file from templates, matrix and locks; and their parser.

Start with `files.render_images` and `parse.read_dockerfile`. `common/` holds the files that every rendered context
carries.

May import: lock and whatever lock may.
"""
