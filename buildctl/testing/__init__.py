"""Stage 5, tests: probes run inside an image and answer; findings and reports come out.

Start with `images.test_images`. `probes/` holds the files that run inside, what judges their answers, and in
`probes/expected` what the claims promise; `report` what was found, `kept` and `merge` how reports of several machines
come together, `debt` what never ran.

May import: build and whatever build may.
"""
