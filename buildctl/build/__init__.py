"""Stage 4, images: a plan from the Dockerfile, recipes, layers, an image in the layout.

Start with `images.build_images`, which gives an `engine.Order` to one of `choose.ENGINES`: `assembler`, or `buildkit`,
which sends the same Dockerfile through `docker buildx bake`. `plan` turns instructions into operations or refuses
them, `recipes` gives layers their keys, `material` and `supply` fetch, `assemble` makes layers meanwhile; `index` puts
platforms together; `unchanged` remembers builds with nothing to do; `native` makes the environment for macOS.

May import: dockerfile, host and whatever they may.
"""
