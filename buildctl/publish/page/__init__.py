"""A folder of HTML to look at: the matrix, an image on each page, sizes, differences, verdicts, the last build.

`collect` reads what there is (locks, claims, reports, a layout or a registry) into the values of `value`; `verdicts`
runs `buildctl check` over every kind of machine and records the answers as data; `generations` and `treemap` compute
what is drawn; `write` fills the templates. Nothing here reads a clock, so the same input gives the same bytes.
"""
