"""Results as one page of HTML, which asks for nothing from anywhere: its style, its sections, figures and tables."""

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.report import pages, pictures

# Columns of a published.csv that are numbers.
NUMBERS = ("ours", "published", "published_sd", "difference", "tolerance")
# No request can leave the page and no script can run in it, whatever a study has put there.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fdfdfb; --ink: #1f2328; --soft: #5d656e; --line: #dcdfe3; --tint: #f3f4f1; --link: #0a5a94;
  --gutter: clamp(1rem, 4vw, 2.5rem);
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181b; --ink: #e3e5e7; --soft: #a0a7af; --line: #363b41; --tint: #1f2226; --link: #82bff0; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 2.5rem var(--gutter) 4rem; max-width: 66rem; overflow-wrap: anywhere;
  background: var(--ground); color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1, h2, h3 { line-height: 1.25; text-wrap: balance; font-weight: 650; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.2rem); letter-spacing: -.015em; }
h2 { margin: 0 0 1rem; font-size: clamp(1.3rem, 1.1rem + .9vw, 1.65rem); letter-spacing: -.01em; }
h3 { margin: 2.5rem 0 .75rem; font-size: 1.05rem; }
p { margin: 0 0 1rem; max-width: 68ch; text-wrap: pretty; }
a { color: var(--link); text-underline-offset: .15em; text-decoration-thickness: .06em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: .9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre {
  margin: 0 0 1rem; padding: .75rem 1rem; border-radius: 6px; background: var(--tint);
  white-space: pre-wrap;
}
pre span { display: inline-block; max-width: 100%; }
.soft, .sd { color: var(--soft); }
.contents { margin: 2rem 0 0; padding: 0; list-style: none; }
.contents li { padding: .9rem 0; border-top: 1px solid var(--line); }
.contents a { font-weight: 600; text-decoration: none; }
.contents a:hover { text-decoration: underline; }
.contents p { margin: .2rem 0 0; }
section { margin-top: 3.5rem; padding-top: 2rem; border-top: 1px solid var(--line); scroll-margin-top: 1rem; }
.finding { margin: 1.25rem 0; padding-left: 1rem; border-left: 3px solid var(--link); font-size: 1.1rem; line-height: 1.5; }
.finding p:last-child { margin: 0; }
figure { margin: 1.5rem 0 2.25rem; }
figure img {
  display: block; width: auto; max-width: 100%; height: auto; padding: clamp(.25rem, 1.5vw, 1rem);
  border: 1px solid var(--line); border-radius: 6px; background: #fff; color: #1f2328;
}
figcaption { margin-top: .6rem; max-width: 80ch; color: var(--soft); font-size: .925rem; line-height: 1.5; }
figcaption b { color: var(--ink); font-weight: 600; }
figcaption p { margin: 0 0 .4rem; max-width: none; }
.scroll {
  margin: 0 0 1.75rem; width: fit-content; max-width: 100%; max-height: 42rem; overflow: auto;
  border: 1px solid var(--line); border-radius: 6px;
}
table {
  border-collapse: collapse; overflow-wrap: break-word;
  font-size: .875rem; line-height: 1.35; font-variant-numeric: tabular-nums;
}
caption { text-align: left; font-weight: 600; }
caption span {
  display: block; position: sticky; left: 0; padding: .7rem .8rem;
  width: max-content; max-width: calc(min(100vw, 66rem) - 2 * var(--gutter) - 2px);
}
th, td { padding: .4rem .8rem; text-align: left; white-space: nowrap; vertical-align: baseline; }
thead th {
  position: sticky; top: 0; z-index: 2; background: var(--ground);
  box-shadow: inset 0 1px var(--line), inset 0 -1px var(--line);
  color: var(--soft); font-weight: 600; vertical-align: bottom;
}
tbody tr + tr > * { border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent); }
th:first-child { position: sticky; left: 0; z-index: 1; background: var(--ground); }
thead th:first-child { z-index: 3; }
tbody th { font-weight: 500; }
tbody tr:hover > * { background: var(--tint); }
td.number, th.number { text-align: right; }
details { margin: 0 0 1rem; }
summary { margin-bottom: .75rem; cursor: pointer; color: var(--link); }
dl {
  display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: .3rem 1.25rem;
  margin: 0 0 1.5rem; font-size: .925rem;
}
dt { color: var(--soft); }
dd { margin: 0; }
@media (max-width: 36rem) {
  th:first-child { max-width: 45vw; white-space: normal; }
  th, td, caption span { padding-inline: .6rem; }
}
@media print {
  .scroll { max-height: none; overflow: visible; border: 0; }
  section { break-before: page; }
  figure, tr { break-inside: avoid; }
}
"""


class Entry(NamedTuple):
    """A study on its way to the page.

    Attributes:
      name: its folder, from the folder of results.
      page: what it shows.
      pictures: the files of its figures, in their order.
      comparison: the rows of its published.csv; empty where there is none.
      provenance: what its newest row was made by, by heading.
    """

    name: str
    page: pages.Page
    pictures: tuple[pictures.Picture, ...]
    comparison: tuple[dict[str, str], ...]
    provenance: dict[str, str]


def render(entries: Sequence[Entry]) -> str:
    """The whole page.

    Args:
      entries: the studies, in order.

    Returns:
      HTML that asks for nothing from anywhere.
    """
    count = f"{len(entries)} {'study' if len(entries) == 1 else 'studies'}"
    names = [f"study-{number}-{_slug(entry.name)}" for number, entry in enumerate(entries, 1)]
    parts = [
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>sae_gap: results of {count}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>",
        "<h1>Is it the encoder or the dictionary?</h1>",
        f'<p class="soft">Results of {count}. Numbers are means ± standard deviations over seeds.</p>\n</header>',
        '<nav id="contents" aria-label="Contents">\n<ol class="contents">',
        *(_item(name, entry.page) for name, entry in zip(names, entries, strict=True)),
        "</ol>\n</nav>\n<main>",
        *(part for name, entry in zip(names, entries, strict=True) for part in _section(name, entry)),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _item(name: str, page: pages.Page) -> str:
    finding = "".join(_paragraphs(page.finding))
    return f'<li><a href="#{name}">{_inline(page.title)}</a>{finding}</li>'


def _section(name: str, entry: Entry) -> Iterator[str]:
    page = entry.page
    yield f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{_inline(page.title)}</h2>'
    yield from _paragraphs(page.about)
    if page.finding.strip():
        yield f'<div class="finding">{"".join(_paragraphs(page.finding))}</div>'
    if page.command.strip():
        # A browser would part --flag after its hyphens.
        words = re.sub(r"\S+", lambda word: f"<span>{html.escape(word[0])}</span>", page.command.strip())
        yield f"<pre><code>{words}</code></pre>"
    if page.figures:
        yield "<h3>Figures</h3>"
    for number, (figure, picture) in enumerate(zip(page.figures, entry.pictures, strict=True), 1):
        yield _figure(number, figure, picture)
    if page.tables:
        yield "<h3>Tables</h3>"
    for number, table in enumerate(page.tables, 1):
        yield _table(f"{name}-table-{number}", table.title, pages.show(table))
    if entry.comparison:
        yield from _agreement(f"{name}-published", entry.comparison)
    notes = {_inline(heading): _inline(note) for heading, note in page.notes.items()}
    notes |= {html.escape(heading): html.escape(value) for heading, value in entry.provenance.items()}
    yield "<h3>How it was made</h3>"
    if notes:
        yield f"<dl>{''.join(f'<dt>{heading}</dt><dd>{note}</dd>' for heading, note in notes.items())}</dl>"
    if not entry.provenance:
        yield '<p class="soft">No rows tell of the machine and the versions.</p>'
    files = f"Its files are in <code>{html.escape(entry.name)}</code>."
    yield f'<p class="soft">{files} <a href="#contents">Back to the contents</a></p>\n</section>'


def _figure(number: int, figure: pages.Figure, picture: pictures.Picture) -> str:
    caption = figure.caption if figure.caption.strip() else picture.caption
    first, *rest = pages.paragraphs(caption) or [""]
    alternative = pages.alternative(pages.Figure(figure.file, caption))
    source = base64.b64encode(picture.content).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{html.escape(alternative)}" width="{picture.width}" '
        f'height="{picture.height}" loading="lazy" decoding="async">\n'
        f"<figcaption><p><b>Figure {number}.</b> {_inline(first)}</p>{''.join(f'<p>{_inline(part)}</p>' for part in rest)}"
        "</figcaption></figure>"
    )


def _table(name: str, title: str, columns: Sequence[pages.Column]) -> str:
    kinds = [' class="number"' if column.numeric else "" for column in columns]
    headings = "".join(
        f'<th scope="col"{kind}>{html.escape(column.heading)}</th>' for column, kind in zip(columns, kinds, strict=True)
    )
    lines = []
    for cells in zip(*(column.cells for column in columns), strict=True):
        shown = [_cell(*cell) for cell in cells]
        rest = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(shown[1:], kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row"{kinds[0]}>{shown[0]}</th>{rest}</tr>')
    # A box that scrolls must be reachable by keyboard, and then needs a name.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}"><table>\n'
        f'<caption><span id="{name}">{_inline(title)}</span></caption>\n'
        f"<thead><tr>{headings}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _cell(mean: str, sd: str) -> str:
    if not mean:
        return '<span class="sd">–</span>'
    return html.escape(mean) + (f' <span class="sd">± {html.escape(sd)}</span>' if sd else "")


def _agreement(name: str, rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    far = [row for row in rows if row["close"] == "False"]
    # A tolerance of 0 puts its number first.
    far.sort(key=lambda row: abs(float(row["difference"])) / (float(row["tolerance"]) or 1e-300), reverse=True)
    yield "<h3>Beside the published numbers</h3>"
    yield f"<p>{len(rows) - len(far):,} of {len(rows):,} numbers are within their tolerance of the published ones.</p>"
    if not far:
        return
    place = {
        column: column.replace("_", " ")
        for column in far[0]
        if column not in (*NUMBERS, "relative", "close") and any(row[column] for row in far)
    }
    lines: list[dict[str, Any]] = [
        {column: _whole(row[column]) for column in place}
        | {f"{column}_mean": float(row[column]) for column in ("ours", "published", "difference", "tolerance")}
        | {"published_sd": float(row["published_sd"]) if row["published_sd"] else None}
        for row in far
    ]
    columns = place | {column: column for column in ("ours", "published", "difference", "tolerance")}
    table = _table(
        name,
        "Far from the published number, the furthest in units of its tolerance first",
        pages.show(pages.Table("", columns, lines)),
    )
    yield f"<details><summary>The {len(far):,} that {'is' if len(far) == 1 else 'are'} not</summary>\n{table}</details>"


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _paragraphs(text: str) -> list[str]:
    return [f"<p>{_inline(part)}</p>" for part in pages.paragraphs(text)]


def _inline(text: str) -> str:
    parts = pages.spans(" ".join(text.split()))
    return "".join(f"<code>{html.escape(part)}</code>" if code else html.escape(part) for part, code in parts)


__all__ = ["NUMBERS", "Entry", "render"]
