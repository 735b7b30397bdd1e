"""The report's HTML: its structure, and that all text is escaped."""

from scalerl_operator.render.html import Page, Picture, Table, build_page


def build_body(*parts: Table | Picture) -> str:
    """Return the HTML between the facts and the RLRun."""
    text = build_page(Page("tiny", "Running", "lead", [("steps", "7")], parts, "spec: {}"))
    return text.partition("<span>steps</span></div></div>\n")[2].partition("<details>")[0]


def test_a_table_without_a_header_has_no_head_and_a_note_precedes_it() -> None:
    assert build_body(Table("Facts", ("", ""), [("a", "1"), ("b", "2")], "two of them")) == (
        "<h2>Facts</h2>\n<p>two of them</p>\n"
        '<div class="scroll"><table><tbody>\n'
        "<tr><td>a</td><td>1</td></tr>\n<tr><td>b</td><td>2</td></tr>\n"
        "</tbody></table></div>\n"
    )


def test_a_header_and_a_picture() -> None:
    table, picture = Table("Laws", ("law", ""), []), Picture("Curve", b"png", "rising")
    assert build_body(table, picture) == (
        '<h2>Laws</h2>\n<div class="scroll"><table><thead><tr><th>law</th><th></th></tr></thead><tbody>\n'
        "</tbody></table></div>\n"
        '<h2>Curve</h2>\n<img alt="rising" src="data:image/png;base64,cG5n">\n'
    )


def test_text_of_a_run_cannot_become_markup() -> None:
    evil = "<script>alert('x')</script>"
    table = Table(evil, (evil,), [(evil,)], evil)
    picture = Picture(evil, b"png", f'"{evil}')
    text = build_page(Page(evil, evil, evil, [(evil, evil)], [table, picture], evil))
    assert "<script>" not in text
    assert 'alt="&#34;&lt;script' in text
