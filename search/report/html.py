"""HTML by functions: text is escaped, unless it is markup that these functions made."""

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

_VOID = {"br", "img", "meta", "source"}


class Markup(str):
    """HTML that may stand in a page as it is; any other string is escaped first."""


def element(tag: str, *inside: str, **attributes: Any) -> Markup:
    """One element; a trailing `_` keeps an attribute's name from being a word of Python.

    >>> element("p", "1 < 2, ", element("b", "always"), class_="note")
    '<p class="note">1 &lt; 2, <b>always</b></p>'

    Args:
        tag: Its name.
        *inside: What stands in it, in order; strings other than `Markup` are escaped.
        **attributes: None is left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*inside)}</{tag}>")


def join(*parts: str) -> Markup:
    """Parts one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def table(header: Sequence[str], rows: Iterable[Markup], *, class_: str | None = None) -> Markup:
    """A table that scrolls sideways where it is wider than the page.

    Args:
        header: Titles of the columns; those that begin with `#` are set to the right, without it.
        rows: What `row` gives.
        class_: For the style sheet.
    """
    titles = [element("th", name.lstrip("#"), scope="col", class_=_side(name)) for name in header]
    inside = element("thead", element("tr", *titles)), element("tbody", *rows)
    return element("div", element("table", *inside, class_=class_), class_="scroll")


def row(header: Sequence[str], cells: Sequence[str], *, class_: str | None = None) -> Markup:
    """A row of a table with that header; the first cell names it."""
    first, *others = zip(header, cells, strict=True)
    named = element("th", first[1], scope="row", class_=_side(first[0]))
    return element("tr", named, *(element("td", cell, class_=_side(name)) for name, cell in others), class_=class_)


def _side(name: str) -> str | None:
    return "number" if name.startswith("#") else None


def figure(picture: Markup, *caption: str, class_: str | None = None) -> Markup:
    """A picture with what it shows."""
    return element("figure", picture, element("figcaption", *caption), class_=class_)


def data_address(content: bytes, kind: str) -> str:
    """A file's content as an address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def page(title: str, *body: str) -> str:
    """A whole page with the report's style sheet.

    Args:
        title: For the browser's tab.
        *body: What stands in it.
    """
    style = Markup(resources.files("search.report").joinpath("report.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content="genenet"),
        element("title", title),
        element("style", style),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en')}\n"
