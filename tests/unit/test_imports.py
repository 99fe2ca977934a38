"""No import circle anywhere: imports inside functions count, those for types alone do not."""

from __future__ import annotations

import grimp
import pytest


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("notellm2", "flows", exclude_type_checking_imports=True, cache_dir=None)


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Modules that import each other in a ring, in order; empty: there is none."""
    finished: set[str] = set()
    for start in sorted(graph.modules):
        path: list[str] = []
        stack = [(start, iter(sorted(graph.find_modules_directly_imported_by(start))))]
        if start in finished:
            continue
        path.append(start)
        while stack:
            module, imported = stack[-1]
            for other in imported:
                if other in path:
                    return [*path[path.index(other) :], other]
                if other not in finished:
                    path.append(other)
                    stack.append((other, iter(sorted(graph.find_modules_directly_imported_by(other)))))
                    break
            else:
                finished.add(module)
                path.remove(module)
                stack.pop()
    return []


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(graph) == []


def test_a_planted_circle_is_found() -> None:
    planted = grimp.ImportGraph()
    for module in ("a", "b", "c", "d"):
        planted.add_module(module)
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")):
        planted.add_import(importer=importer, imported=imported)
    assert circle(planted) == ["b", "c", "d", "b"]


@pytest.mark.parametrize("flow", ["retrain", "ingest", "refresh_index", "backtest", "ablate", "cleanup"])
def test_no_flow_imports_the_command_line_of_flows(graph: grimp.ImportGraph, flow: str) -> None:
    assert "flows.cli" not in graph.find_upstream_modules(f"flows.{flow}")
