"""What the checks of the documents rest on: it tells what is shown from what is not."""

from __future__ import annotations

import pytest

from tests.docs.document import Document, is_shown

_TEXT = """# A
```sh
one
# no heading
```
## B, with `code`
1. step:
   ```text
   two
     three
   ```
### C
## D
[here](x.md#c)
"""


def test_a_section_ends_with_the_next_heading_of_its_level() -> None:
    """What stands below headings of its own belongs to it, and a comment in code is no heading."""
    found = Document(_TEXT)
    assert [block.text for block in found.section("A").blocks()] == ["one\n# no heading\n", "two\n  three\n"]
    assert [block.text for block in found.section("B, with `code`").blocks("text")] == ["two\n  three\n"]
    assert found.section("D").blocks() == []
    assert found.anchors() == {"a", "b-with-code", "c", "d"}
    assert found.links() == ["x.md#c"]


@pytest.mark.parametrize(("expected", "shown"), [("size 5\nend", True), ("end\nsize 5", False), ("size 5 ms", False)])
def test_what_was_printed_is_told_from_what_was_not(expected: str, shown: bool) -> None:
    """Whole lines, in order; a number may be another one."""
    assert is_shown(expected, "begin\nsize 188  \nmiddle\nend\n") == shown
    assert is_shown("b…n", "begin")
