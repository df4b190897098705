"""What parties say to each other: notes, states, and what they hold against each other."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from amaqctl.errors import InputError, WireError
from amaqctl.party import notes, states
from amaqctl.party.agreement import PROTOCOL, DataFacts, Document, Told, agree, newest_common
from amaqctl.party.difference import first_difference
from amaqctl.party.notes import note_from_bytes, note_to_bytes
from amaqctl.party.states import TRANSITIONS, PartyState, after
from amaqctl.tasks.task import IGNORE_INDEX
from amaqctl.wire.frame import write_frame

LABELS = torch.tensor([[IGNORE_INDEX, 3, 257], [0, IGNORE_INDEX, 1]])
SUMS = {
    "messages": 2,
    "values": 64,
    "codes_bytes": 32,
    "widths_bytes": 8,
    "side_bytes": 4,
    "header_bytes": 90,
    "width_sum": 128.0,
    "width_columns": 32,
    "min_width": 3,
    "max_width": 5,
}
NOTES = [
    notes.Greeting(document={"protocol": 1, "told": {"name": "a"}}),
    notes.Restore(step=0),
    notes.Train(step=3, num_loss_tokens=17, is_clean=False),
    notes.Update(norm=0.1),
    notes.LookNote(
        step=4,
        generation=None,
        wants_loss=True,
        choices=(1, 2),
        choice_positions=(0, 5),
        wants_next=False,
        is_clean=True,
    ),
    notes.Forget(generation=2),
    notes.Save(step=4),
    notes.Keep(steps=(2, 4)),
    notes.End(step=4),
    notes.Stop(text="stopped by SIGINT"),
    notes.Stepped(loss=1 / 3, norms={0: 0.1, 7: 2.5}, traffic={"0/activation": SUMS}),
    notes.Looked(loss=2.5, choices=(0, 1), next_tokens=(), traffic={}),
    notes.Pass(step=3),
    notes.Average(step=4),
    notes.Join(),
    notes.Mean(step=4),
    notes.Done(step=4),
]


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.kind)
def test_a_note_comes_as_it_was_said(note: notes.Note) -> None:
    for labels_BT in (None, LABELS):
        data = note_to_bytes(note, labels_BT)
        came, came_labels_BT = note_from_bytes(data, len(data))
        assert came == note
        assert (came_labels_BT is None) == (labels_BT is None)
        if labels_BT is not None:
            assert came_labels_BT is not None
            assert torch.equal(came_labels_BT, labels_BT)
        with pytest.raises(WireError, match="at most"):
            note_from_bytes(data, len(data) - 1)


def test_every_kind_is_tried() -> None:
    assert {note.kind for note in NOTES} == notes._KINDS.keys()


def _framed(kind: str, body: bytes, labels: Any = None) -> bytes:
    return write_frame(notes.KIND_NOTE, notes._Header(kind=kind, labels=labels), body)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_framed("jump", b"{}"), "unknown kind 'jump'"),
        (_framed("save", b'{"step": -1}'), "illegal save: step"),
        (_framed("save", b'{"step": 1.5}'), "illegal save: step"),
        (_framed("save", b'{"step": 1, "more": 2}'), "illegal save: more"),
        (_framed("save", b'{"step": 1} '[:-2]), "illegal save"),
        (_framed("update", b'{"norm": NaN}'), "illegal update"),
        (_framed("update", b'{"norm": -1}'), "illegal update: norm"),
        (_framed("train", b"{}", (4, 4)), "a note of 2 bytes with labels of shape"),
        (_framed("train", b"x" * 64, (4, 4)), "illegal train"),
        (_framed("stepped", b'{"loss": 1e999, "norms": {}, "traffic": {}}'), "illegal stepped"),
        (b"AMAQ", "cut off"),
    ],
)
def test_what_is_no_note(data: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        note_from_bytes(data, 2**20)


def test_damaged_notes_are_refused_and_lies_do_no_harm() -> None:
    chance = random.Random(5)
    for note in NOTES:
        body = note.model_dump_json().encode()
        for _ in range(200):
            lie = bytearray(body)
            for _ in range(chance.choice((1, 1, 3))):
                lie[chance.randrange(len(lie))] = chance.randrange(256)
            labels = chance.choice((None, (1, 1), (2, 3), (2**20, 2**20)))
            try:
                came, _ = note_from_bytes(_framed(note.kind, bytes(lie), labels), 2**20)
            except WireError:
                continue
            assert type(came) is type(note)
        data = bytearray(note_to_bytes(note, LABELS))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        with pytest.raises(WireError):
            note_from_bytes(bytes(data), 2**20)


@pytest.mark.parametrize("wrong", [-1, -101, 258, 2**31 - 1])
def test_labels_that_are_no_tokens(wrong: int) -> None:
    notes.check_labels(LABELS, 258)
    labels_BT = LABELS.clone()
    labels_BT[1, 1] = wrong
    with pytest.raises(WireError, match=f"a label {wrong} where the model has 258 tokens"):
        notes.check_labels(labels_BT, 258)


def test_every_transition_is_walked_and_every_other_note_is_out_of_turn() -> None:
    for state, note in itertools.product(PartyState, NOTES):
        if (state, note.kind) in TRANSITIONS:
            assert after(state, note) is TRANSITIONS[state, note.kind]
        else:
            with pytest.raises(WireError, match=f"'{note.kind}' out of turn: this party is"):
                after(state, note)
    ends = {PartyState.ended, PartyState.stopped}
    assert not {state for state, _ in TRANSITIONS} & ends
    assert {*TRANSITIONS.values()} == {*PartyState} - {PartyState.connected}


def test_the_table_of_states_is_the_table_of_the_page() -> None:
    lines = (states.__doc__ or "").splitlines()
    cells = [line.split("  ") for line in lines if "  " in line and not line.startswith("=")]
    told = {tuple(word.strip() for word in line if word.strip()) for line in cells} - {
        ("state", "note", "next state")
    }
    written = set()
    for (state, kind), following in TRANSITIONS.items():
        written.add(("any but ended" if kind == "stop" else str(state), kind, str(following)))
    assert told == written


def _document(name: str = "a", **changes: Any) -> Document:
    told = {
        "name": name,
        "versions": {"amaqctl": "1", "torch": "2.13"},
        "threads": 2,
        "device": "cpu",
        "files": {"w1": "aa", "w2": "bb"},
        "saved": (2, 4),
        **changes.pop("told", {}),
    }
    document = {
        "protocol": PROTOCOL,
        "session": "s",
        "shared": {"train": {"seed": 17}, "cuts": [2]},
        **changes,
    }
    return Document(told=Told(**told), **document)


def test_a_document_comes_as_it_was_said() -> None:
    data = DataFacts(num_positions=64, num_samples=24, fingerprint="f")
    document = _document(data=data)
    sent, _ = note_from_bytes(note_to_bytes(document.greeting()), 2**20)
    assert isinstance(sent, notes.Greeting)
    assert Document.of(sent) == document
    with pytest.raises(WireError, match="illegal greeting: told"):
        Document.of(notes.Greeting(document={**sent.document, "told": {}}))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"protocol": 2}, "protocol: 1 at a, 2 at b"),
        ({"told": {"versions": {"amaqctl": "2", "torch": "2.13"}}}, "version: '1' at a, '2' at b"),
        ({"shared": {"train": {"seed": 18}, "cuts": [2]}}, "train.seed: 17 at a, 18 at b"),
        ({"shared": {"train": {}, "cuts": [2]}}, "train.seed: 17 at a, nothing at b"),
        ({"shared": {"train": {"seed": 17}, "cuts": [2, 3]}}, "cuts: "),
        ({"told": {"files": {"w2": "cc"}}}, "model.files.w2: 'bb' at a, 'cc' at b"),
        ({"session": "t"}, "session: 's' at a, 't' at b"),
    ],
)
def test_a_difference_is_named_with_both_values(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        agree(_document(), _document("b", **changes))
    assert caught.value.message.startswith(f"the parties differ in {key}")
    assert caught.value.error_id == "PEER-DIFFERS"


def test_other_machines_and_shards_are_no_difference() -> None:
    agreement = agree(_document(), _document("b", told={"files": {"w2": "bb", "w9": "zz"}}))
    assert agreement.warnings == ()
    told = {"threads": 8, "device": "H", "versions": {"amaqctl": "1", "torch": "3"}}
    warnings = agree(_document(), _document("b", told=told)).warnings
    assert [line.split(";")[0] for line in warnings] == [
        "torch: 2.13 at a, 3 at b",
        "threads: 2 at a, 8 at b",
        "device: cpu at a, H at b",
    ]


def test_the_newest_step_that_all_have() -> None:
    assert newest_common([[2, 4, 6], [4, 2], [4, 6]]) == 4
    assert newest_common([[2], [4]]) == newest_common([[2], []]) == newest_common([]) == 0


@pytest.mark.parametrize(
    ("mine", "theirs", "place"),
    [
        ({"seed": 17}, {"seed": 18}, ("seed", "17", "18")),
        ({"cuts": [2]}, {"cuts": [3]}, ("cuts[0]", "2", "3")),
        ({"cuts": [2]}, {"cuts": [2, 3]}, ("cuts", "[2]", "[2, 3]")),
        ({"a": {"b": None}}, {"a": {}}, ("a.b", "None", "nothing")),
        ({"a": [{"b": True}]}, {"a": [{"b": 1}]}, ("a[0].b", "True", "1")),
        ({"a": {"b": 1}}, {"a": 3}, ("a", "{'b': 1}", "3")),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ("a", "1", "2")),
        ({"a": "1"}, {"a": 1}, ("a", "'1'", "1")),
        ({"a": [2, 1]}, {"a": (2, 1)}, None),
        ({"a": 4}, {"a": 4.0}, None),
    ],
)
def test_the_first_difference_whoever_says_it(mine: Any, theirs: Any, place: Any) -> None:
    assert first_difference(mine, theirs, "") == place
    turned = None if place is None else (place[0], place[2], place[1])
    assert first_difference(theirs, mine, "") == turned
