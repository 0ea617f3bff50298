from __future__ import annotations

from pathlib import Path

from buildctl.oci.trees.kept import discard_changed, is_changed, keep_tree, remove_tree
from tests.support.images import nested


def test_folders_nested_three_thousand_deep_are_removed(tmp_path: Path) -> None:
    root = nested(tmp_path / "root", 3000)
    remove_tree(root)
    assert not root.exists()


def test_what_may_not_be_written_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "kept").touch()
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").touch()
    (root / "a/link").symlink_to(outside)
    (root / ".gone-x").mkdir()
    for path in (root / "a/b", root / "a"):
        path.chmod(0o500)
    remove_tree(root)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


def test_a_tree_without_a_receipt_counts_as_changed(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "tree"
    (made / "a").mkdir(parents=True)
    keep_tree(made, target)
    assert not is_changed(target)
    assert not discard_changed(target)
    (tmp_path / "tree.receipt").unlink()  # killed between the rename and the receipt
    assert is_changed(target)
    assert discard_changed(target)
    assert not target.exists()
    assert not discard_changed(target)
