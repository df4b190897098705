"""The quantizer contract, for anybody's tests: the same clauses for built-ins and strangers.

::

    from amaqctl.testing import QuantizerContract

    class TestMine(QuantizerContract):
        name = "mine"

`check_quantizer` runs the same list without pytest. Reading order: ``clauses`` (the list),
``subject`` (what is under test), then a file for each kind of promise.
"""

from amaqctl.testing.check import CheckedClause, check_clauses, check_quantizer, subjects_of
from amaqctl.testing.clauses import CLAUSES, Clause
from amaqctl.testing.contract import QuantizerContract
from amaqctl.testing.finding import Finding
from amaqctl.testing.subject import Subject

__all__ = [
    "CLAUSES",
    "CheckedClause",
    "Clause",
    "Finding",
    "QuantizerContract",
    "Subject",
    "check_clauses",
    "check_quantizer",
    "subjects_of",
]
