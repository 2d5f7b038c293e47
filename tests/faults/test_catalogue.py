"""tests/faults/README.md names tests that exist, a proof and a control for every fault, and leaves no file out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [01] \|", line)
]
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")


def test_each_named_test_exists() -> None:
    found = {pair for row in TABLE for pair in NAMED.findall(" ".join(row))}
    assert len(found) > 50
    for file, name in found:
        tree = ast.parse((HERE.parent / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"


def test_each_fault_has_a_proof_and_a_control_or_says_why_not() -> None:
    assert len(TABLE) >= 20, "the catalogue's rows"
    for _, fault, proof, control in TABLE:
        assert NAMED.search(proof) or proof.startswith("none: "), fault
        assert NAMED.search(control) or control.startswith("none"), fault


def test_each_file_of_fault_tests_is_named() -> None:
    named = {file for row in TABLE for file, _ in NAMED.findall(" ".join(row))}
    mine = {f"faults/{path.name}" for path in HERE.glob("test_*.py")} - {"faults/test_catalogue.py"}
    # What it has to say is no fault of the catalogue.
    beside = {f"faults/test_{name}.py" for name in ("campaign_verdict", "hostile_run_as", "storage_copies")}
    assert mine - named == beside
