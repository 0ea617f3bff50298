"""docs/benchmarks.md, its charts (docs/charts/*.svg) and the chart in the README, from docs/benchmarks.json.

python benchmarks/page.py
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from measured import ROOT
from results import Goal, Part, Row, load, ratio

HEAD = """\
# Benchmarks

Written by `make bench`. Rows of one section come from one run on one machine, and what is compared took turns: ratios
carry over to other machines, seconds do not. Wall time is the best turn, CPU is user + system seconds of all processes
of that turn (for Docker those of the engine, too), a ratio is the median of the pairs. "Others" is how much of the
machine other processes used meanwhile. Every turn is in [benchmarks.json](benchmarks.json).
"""
WIDTH, BAR, LEFT = 860, 22, 400
STYLE = """\
<style>text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600}.b{fill:#8c959f}.o{fill:#1a7f37}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6e7681}.o{fill:#3fb950}}</style>"""
IN_README = ("pip install", "our Dockerfile through BuildKit", "assemble")


def write(parts: Mapping[str, Part], results: Path) -> None:
    charts = results.parent / "charts"
    charts.mkdir(exist_ok=True)
    text = [HEAD, *_goals([goal for part in parts.values() for goal in part.goals])]
    for name, part in parts.items():
        drawn = {
            chart: [r for r in part.rows if r.chart == chart] for chart in dict.fromkeys(r.chart for r in part.rows)
        }
        images = []
        for number, (title, rows) in enumerate((t, r) for t, r in drawn.items() if t):
            path = charts / f"{name}-{number}.svg"
            path.write_text(chart(title, [(_bar_label(row), row.best.wall, _ours(row)) for row in rows]))
            images.append(f"![{title}]({charts.name}/{path.name})")
        text += section(part, images)
    results.with_suffix(".md").write_text("\n".join(text))
    if results.parent == ROOT / "docs":
        readme(parts, ROOT / "README.md")


def section(part: Part, images: Sequence[str]) -> Iterator[str]:
    yield f"\n## {part.title}\n"
    yield f"Measured with {part.machine}; {part.turns} turn{'s' * (part.turns != 1)}; others: {part.busy}.\n"
    yield from [*images, ""] if images else []
    yield "| what | wall | CPU | |"
    yield "|---|---|---|---|"
    for row in part.rows:
        best = row.best if row.turns else None
        wall = f"{best.wall:.2f} s" if best else ""
        cpu = f"{best.user:.1f} + {best.system:.1f} s" if best and best.cpu else ""
        yield f"| {row.what} | {wall} | {cpu} | {', '.join(filter(None, (_compared(row, part), row.note)))} |"
    yield f"\n{part.notes}"


def _compared(row: Row, part: Part) -> str:
    if not row.than:
        return ""
    other = part.row(row.than)
    times = ratio(row.turns, other.turns)
    what = "the floor" if other.what.startswith("floor") else f"`{other.what}`" if len(other.what) < 30 else "the first"
    if times >= 1 or other.what.startswith("floor"):
        return f"{times:.2f} times {what}"
    return f"{1 / times:.1f} times as fast as {_short(other.what)}"


def _short(what: str) -> str:
    return what.rpartition(": ")[2]


def _goals(goals: Sequence[Goal]) -> Iterator[str]:
    """Missed ones first, by name."""
    words = {False: "**missed**", None: "not measured", True: "reached"}
    yield "## Goals\n"
    yield "| | goal | here | |"
    yield "|---|---|---|---|"
    for goal in sorted(goals, key=lambda g: list(words).index(g.reached)):
        unit = f" {goal.unit}" if goal.unit else ""
        got = f"{goal.got:.3g}{unit}" if goal.got is not None else goal.why
        bound = f"at {'least' if goal.least else 'most'} {goal.want:g}{unit}"
        yield f"| {goal.what} | {bound} | {got} | {words[goal.reached]} |"


def _bar_label(row: Row) -> str:
    return _short(row.what).replace("`", "")


def _ours(row: Row) -> bool:
    return "assemble" in row.what or "buildctl" in row.what or "our" in row.what.lower()


def chart(title: str, bars: Sequence[tuple[str, float, bool]]) -> str:
    """Horizontal bars with their seconds, for light and dark pages."""
    longest = max(seconds for _, seconds, _ in bars)
    height = 34 + len(bars) * (BAR + 8)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title>{STYLE}",
        f'<text class="t" x="0" y="18">{escape(title)}</text>',
    ]
    for number, (label, seconds, ours) in enumerate(bars):
        top = 30 + number * (BAR + 8)
        width = max(2, round(seconds / longest * (WIDTH - LEFT - 80)))
        lines.append(f'<text x="{LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(label)}</text>')
        lines.append(
            f'<rect class="{"o" if ours else "b"}" x="{LEFT}" y="{top}" width="{width}" height="{BAR}" rx="3"/>'
        )
        lines.append(f'<text x="{LEFT + width + 8}" y="{top + 16}">{seconds:.3g} s</text>')
    return "\n".join([*lines, "</svg>", ""])


def readme(parts: Mapping[str, Part], path: Path) -> None:
    """What the README shows of it, between its marks."""
    text = path.read_text()
    if "docker" in parts:
        text = _between(text, "chart", f"```text\n{_bars(parts['docker'])}\n```\n")
    if "minute" in parts:
        text = _between(text, "first minute", f"{parts['minute'].notes}\n")
    path.write_text(text)


def _between(text: str, what: str, new: str) -> str:
    before, start, rest = text.partition(f"<!-- {what}: written by `make bench` -->\n")
    _, end, after = rest.partition(f"<!-- end of {what} -->")
    return f"{before}{start}{new}{end}{after}" if start and end else text


def _bars(part: Part) -> str:
    lines = []
    for title in dict.fromkeys(row.chart for row in part.rows if row.chart):
        rows = [row for row in part.rows if row.chart == title and _bar_label(row).startswith(IN_README)]
        rows = [row for row in rows if "cache" not in row.what]
        longest = max(row.best.wall for row in rows)
        for number, row in enumerate(rows):
            name = title.partition(",")[0] if number == 0 else ""
            label = _bar_label(row).replace(" in a plain Dockerfile", "").replace("assemble", "buildctl")
            bar = "█" * max(1, round(row.best.wall / longest * 32))
            lines.append(f"{name:<15} {label:<31} {bar} {row.best.wall:.0f} s")
    return "\n".join(lines)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cpu = found[1] if found else "?"
    return (
        f"{os.cpu_count()} cores, {cpu}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    write(load(ROOT / "docs" / "benchmarks.json"), ROOT / "docs" / "benchmarks.json")
