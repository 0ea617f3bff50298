from __future__ import annotations

import io
import re
import threading
import time

import pytest
from rich.console import Console

from buildctl.console.bars import Bars
from buildctl.console.progress import Lines, Silent, open_progress
from buildctl.console.sums import Sum, told


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=100, highlight=False, soft_wrap=True), out


def test_without_a_terminal_a_piece_gets_a_line_when_it_is_whole() -> None:
    plain, out = console(terminal=False)
    with open_progress("fetched", console=plain) as progress:
        assert isinstance(progress, Lines)
        task = progress.add("a.whl", 5_000_000)
        task.advance(2_000_000)
        assert out.getvalue() == ""
        task.advance(3_000_000)
        task.finish()
    assert re.fullmatch(r"  fetched a\.whl: 5\.00 MB in \d+\.\d s(, [^\n]+/s)?\n", out.getvalue())


def test_what_takes_long_also_says_that_it_begins() -> None:
    plain, out = console(terminal=False)
    with open_progress("fetched", console=plain) as progress:
        progress.add("big.whl", 700_000_000).advance(1)
    assert out.getvalue() == "  big.whl: 700 MB ...\n"


def test_small_pieces_are_summed_up_in_one_line() -> None:
    plain, out = console(terminal=False)
    with open_progress("fetched", console=plain) as progress:
        for n in range(88):
            progress.add(f"{n}.deb", 10_000).advance(10_000)
    assert out.getvalue() == "  fetched 88 small ones: 880 kB\n"


def test_a_piece_of_unknown_size_is_whole_when_it_says_so() -> None:
    plain, out = console(terminal=False)
    with open_progress("made", console=plain) as progress:
        task = progress.add("layer", 0)
        task.advance(2_000_000)
        assert out.getvalue() == ""
        task.finish()
        task.finish()
    assert out.getvalue().count("made layer: 2.00 MB") == 1


def test_what_was_there_already_has_no_line() -> None:
    plain, out = console(terminal=False)
    with open_progress("sent", console=plain) as progress:
        progress.add("layer", 700_000_000).finish()
    assert out.getvalue() == ""


def test_a_download_that_starts_over_is_counted_once() -> None:
    plain, out = console(terminal=False)
    with open_progress("fetched", console=plain) as progress:
        task = progress.add("a", 3_000_000)
        task.advance(2_000_000)
        task.advance(-2_000_000)
        task.advance(3_000_000)
    assert out.getvalue().count("3.00 MB") == 1


def test_the_lines_come_out_even_when_the_work_fails() -> None:
    plain, out = console(terminal=False)

    def work() -> None:
        with open_progress("fetched", console=plain) as progress:
            progress.add("a", 10).advance(10)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert "1 small one: 10 B" in out.getvalue()


def test_on_a_terminal_there_are_bars_and_nothing_of_them_stays() -> None:
    wide, out = console(terminal=True)
    with open_progress("fetched", console=wide) as progress:
        assert isinstance(progress, Bars)
        task = progress.add("a [bracket].whl", 5_000_000)
        task.advance(2_000_000)
        progress.display.refresh()
        shown = out.getvalue()
        assert "a [bracket].whl" in shown
        assert "2.0/5.0 MB" in shown
        assert "fetched 0 of 1, 2.00 MB of 5.00 MB" in shown
        task.advance(3_000_000)
        assert [t.visible for t in progress.display.tasks] == [False]
        assert progress.sum.done == progress.sum.total == 5_000_000


def test_markup_in_a_file_name_is_shown_as_it_is() -> None:
    wide, out = console(terminal=True)
    with open_progress("fetched", console=wide) as progress:
        progress.add("[red]x[/nope]", 2).advance(1)
    assert "[red]x[/nope]" in out.getvalue()


def test_bars_that_do_not_know_the_total_say_no_percentage() -> None:
    wide, out = console(terminal=True)
    with open_progress("made", console=wide) as progress:
        assert isinstance(progress, Bars)
        task = progress.add("layer", 0)
        task.advance(7)
        progress.display.refresh()
        assert "made 0 of 1, 7 B" in out.getvalue()
        assert "left" not in out.getvalue()
        task.finish()
        assert (progress.sum.done, progress.sum.whole) == (7, 1)
        assert not progress.display.tasks[0].visible


def test_what_is_only_about_known_has_a_total_and_ends_when_it_says_so() -> None:
    wide, _ = console(terminal=True)
    with open_progress("made layer", console=wide) as progress:
        assert isinstance(progress, Bars)
        one, two = (progress.add(name, 10, exact=False) for name in ("one", "two"))
        one.advance(15)
        assert progress.display.tasks[0].visible
        assert (progress.sum.whole, progress.sum.pieces, progress.sum.total) == (0, 2, 20)
        one.finish()
        one.finish()
        assert (progress.sum.whole, progress.sum.pieces, progress.sum.total) == (1, 2, 25)
        two.advance(4)
        two.finish()
        assert progress.sum.done == progress.sum.total == 19
    plain, out = console(terminal=False)
    with open_progress("made layer", console=plain) as progress:
        tasks = [progress.add(name, 100_000_000, exact=False) for name in ("one", "two")]
        for task in tasks:
            task.advance(60_000_000)
            task.advance(60_000_000)
            task.finish()
    assert "  one: about 100 MB ...\n  made layer one: 120 MB in" in out.getvalue()
    assert ", 2 of 2\n" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_two_kinds_of_work_share_one_line_of_80_columns(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("buildctl.console.progress._SILENCE", 0.5)
    out = io.StringIO()
    one = Console(file=out, force_terminal=terminal, width=80, highlight=False, soft_wrap=True)
    with open_progress("fetched", console=one) as progress:
        layers = progress.of("made layer")
        wheels = [progress.add(f"{n}.whl", 100_000_000) for n in range(120)]
        made = [layers.add(f"layer {n}", 300_000_000, exact=False) for n in range(55)]
        for wheel in wheels[:12]:
            wheel.advance(50_000_000)
            now[0] += 1
            wheel.advance(50_000_000)
        for layer in made[:7]:
            layer.advance(300_000_000)
            layer.finish()
        now[0] += 1
        wheels[12].advance(10_000_000)
        now[0] += 1
        wheels[12].advance(10_000_000)
        now[0] += 0.6
        if isinstance(progress, Bars):
            progress.display.refresh()
        else:
            assert isinstance(progress, Lines)
            progress.remind()
            progress.remind()
    assert terminal or out.getvalue().count(" left") == 1
    said = r"fetched 1\.22 GB of 12\.0 GB, made layer 7 of 55, \d\d\.\d MB/s, \d:\d\d left"
    found = re.search(said, out.getvalue())
    assert found
    assert len(found[0]) <= 70  # and the bar


def test_after_the_downloads_the_line_is_about_the_layers() -> None:
    fetched, made = Sum("fetched"), Sum("made layer")
    for one, exact in ((fetched, True), (made, False)):
        one.add(100_000_000, exact=exact)
        one.advance(100_000_000)
    fetched.finish(0)
    assert told([fetched, made]).startswith("fetched 1 of 1, made layer 0 of 1, ")
    made.finish(0)
    assert "left" not in told([fetched, made])
    assert told([Sum("fetched")]) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_counts_from_many_threads_add_up(terminal: bool) -> None:
    any_console, _ = console(terminal=terminal)
    with open_progress("fetched", console=any_console) as progress:
        task = progress.add("a", 8 * 1000)

        def work() -> None:
            for _ in range(1000):
                task.advance(1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if isinstance(progress, Bars):
            assert progress.sum.done == 8000
        assert task.done == 8000  # type: ignore[attr-defined]


def test_quiet_says_nothing() -> None:
    wide, out = console(terminal=True)
    wide.quiet = True  # what `--quiet` sets
    with open_progress("fetched", console=wide) as progress:
        assert isinstance(progress, Silent)
        task = progress.add("a", 1)
        task.advance(1)
        task.finish()
    assert out.getvalue() == ""
