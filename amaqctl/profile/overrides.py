"""``--set a.b=value``: changes to the tree before it is validated, in the order given.

A value replaces whatever its key held. Where a quantizer, task or transport gets another name,
options that the old one had in the file go with it; options that came by ``--set`` stay, so
the order of the two does not matter.
"""

from __future__ import annotations

from amaqctl.errors import ProfileError, UsageError
from amaqctl.profile.faults import one_line, unknown_key
from amaqctl.profile.schema import PluginChoice, Profile, section_at
from amaqctl.profile.tree import (
    KeyPath,
    Mapping,
    Mark,
    Node,
    Scalar,
    Tree,
    dotted,
    from_plain,
    shorten,
    show,
    to_plain,
)
from amaqctl.profile.yaml12 import MAX_DEPTH, YamlDocument

_MARKER = "--set "
_MAX_CHARACTERS = 64 * 1024
_SHOWN_CHARACTERS = 200


def apply_override(tree: Tree, item: str) -> None:
    """Change ``tree`` as ``item`` (``KEY=VALUE``) says; faults join ``tree.problems``.

    Raises:
        UsageError: ``item`` has no ``=``.
    """
    mark = Mark(_MARKER + shorten(one_line(item[:_MAX_CHARACTERS]), _SHOWN_CHARACTERS))
    key, equals, text = item.partition("=")
    if not equals:
        raise UsageError(
            "no '=' in the item",
            where=mark.file,
            hint="write --set KEY=VALUE, such as --set train.max_steps=10",
            error_id="USAGE-SET",
        )
    path: KeyPath = tuple(key.strip().split("."))
    fault = _size_fault(item, path) or _path_fault(path)
    if fault:
        tree.problems.append(mark.problem(fault))
        return
    try:
        value = YamlDocument(text, lambda line, column: mark, path)
    except ProfileError as error:
        tree.problems.extend(error.problems)
        return
    tree.problems.extend(value.problems)
    tree.refused.extend(value.refused)
    _put(tree, path, value.node, mark)


def _size_fault(item: str, path: KeyPath) -> str | None:
    """Why the item is larger than any sensible one; None where it is not."""
    if len(item) > _MAX_CHARACTERS:
        return f"is longer than {_MAX_CHARACTERS:,} characters"
    return f"a key of more than {MAX_DEPTH} parts" if len(path) > MAX_DEPTH else None


def is_override(mark: Mark) -> bool:
    """Whether a place is a ``--set`` item."""
    return mark.file.startswith(_MARKER)


def _path_fault(path: KeyPath) -> str | None:
    """Why the schema has no ``path``; None where it has."""
    for depth in range(1, len(path) + 1):
        head = path[:depth]
        if section_at(head) is not None:
            continue
        parent = section_at(head[:-1])
        assert parent is not None, head
        if head[-1] not in parent.model_fields:
            return f"{dotted(head)}: {unknown_key(head)}"
        if _is_options(head):
            empty = any(not part for part in path)
            return f"{dotted(path)}: an option without a name" if empty else None
        if depth < len(path):
            return f"{dotted(path)}: {dotted(head)} holds a value, not keys"
    return None


def _is_options(path: KeyPath) -> bool:
    return section_at(path[:-1]) is PluginChoice and path[-1] == "options"


def _put(tree: Tree, path: KeyPath, value: Node, mark: Mark) -> None:
    node = tree.root
    for depth, part in enumerate(path[:-1]):
        head = path[: depth + 1]
        child = node.entries.get(str(part))
        if child is None or (isinstance(child, Scalar) and child.value is None):
            child = _unwritten(tree, head, mark)
            node.put(str(part), child, mark)
        if not isinstance(child, Mapping):
            shown = show(to_plain(child))
            tree.problems.append(mark.problem(f"{dotted(head)}: mapping needed, holds {shown}"))
            return
        node = child
    if path[-1] == "name" and (section_at(path[:-1]) is PluginChoice or _is_choice(node, path)):
        _rename(node, value)
    node.put(str(path[-1]), value, mark)


def _unwritten(tree: Tree, path: KeyPath, mark: Mark) -> Mapping:
    """What stands for a mapping that the file leaves out: the default of a plugin choice.

    Without it, ``--set quantizers.activation.options.target_bits=3`` would fail for want of a
    name although the profile has one by default. Other defaults need no copy.
    """
    if section_at(path) is PluginChoice:
        default: object = Profile.model_construct()
        for part in path:
            default = getattr(default, str(part), None)
        if isinstance(default, PluginChoice):
            node = from_plain(default.model_dump(), tree.root.mark)
            assert isinstance(node, Mapping)
            return node
    return Mapping(mark)


def _is_choice(node: Mapping, path: KeyPath) -> bool:
    """Whether an option is a quantizer of its own: a name and options, among options."""
    return "options" in path and node.entries.keys() == {"name", "options"}


def _rename(choice: Mapping, name: Node) -> None:
    old = choice.entries.get("name")
    options = choice.entries.get("options")
    if old is None or to_plain(old) == to_plain(name) or options is None:
        return
    if isinstance(options, Mapping):
        _keep_overrides(options)
    else:
        choice.drop("options")


def _keep_overrides(options: Mapping) -> None:
    """Drop what no ``--set`` item put here."""
    for key, entry in list(options.entries.items()):
        if is_override(options.key_marks[key]):
            continue
        if isinstance(entry, Mapping):
            _keep_overrides(entry)
            if entry.entries:
                continue
        options.drop(key)
