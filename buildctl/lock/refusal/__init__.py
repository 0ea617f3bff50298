"""What is refused of the packages that matrix.yaml asks for, or accepted with a note, in the user's keys.

`unsolvable` finds out which package is to blame where uv finds no solution, `outdated` finds versions of years ago that
were chosen because newer ones have no wheel, `linking` libraries that would not load next to the locked torch.
"""
