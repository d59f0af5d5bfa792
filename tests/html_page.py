"""Takes a page apart without a browser: its elements, texts, tables, headings and links."""

import itertools
from html.parser import HTMLParser

# Elements without an end.
_VOID = {"meta", "link", "img", "input", "br", "wbr"}


class HtmlPage(HTMLParser):
    """A page whose elements are all closed, in the right order, or it is an error.

    Attributes:
        tags: (name, attributes) of every element, in their order.
        tables: the rows of each table, as texts.
        headings: (level, text) of each.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.headings = [], [], []
        self._open, self._texts = [], []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag not in _VOID:
            self._open.append((tag, attributes.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, text):
        opened = [tag for tag, _ in self._open]
        self._texts.append((text, tuple(name for _, name in self._open if name)))
        if self.tables and {"td", "th"} & set(opened):
            self.tables[-1][-1][-1] += text
        if {"h1", "h2", "h3", "h4"} & set(opened):
            level, before = self.headings[-1]
            self.headings[-1] = level, before + text

    def text(self, name=None):
        """The text of the element with an id; without one, of the whole page."""
        parts = [text for text, ids in self._texts if name is None or name in ids]
        return " ".join("".join(parts).split())

    def rows(self, number):
        """The cells of a table."""
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[number]]

    def all(self, tag):
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    def problems(self):
        """What every page must have and this one has not."""
        ids = [each["id"] for _, each in self.tags if "id" in each]
        found = [f"{name} is the id of two" for name in set(ids) if ids.count(name) > 1]
        for tag, attributes in self.tags:
            target = attributes.get("href", "")
            if target.startswith("#") and target[1:] not in ids:
                found.append(f"{target} leads nowhere")
            elif target and not target.startswith(("#", "data:")):
                found.append(f"{target} is outside of the page")
            if tag == "img" and not attributes.get("alt"):
                found.append("a picture has no alternative text")
            if tag == "svg" and not {"aria-hidden", "aria-label"} & set(attributes):
                found.append("a drawing has no alternative text")
            if tag == "script" or any(name.startswith("on") for name in attributes):
                found.append("the page has a script")
            named = attributes.get("aria-labelledby")
            if named and named not in ids:
                found.append(f"{named} labels nothing")
        levels = [level for level, _ in self.headings]
        if levels[:1] != [1] or levels.count(1) != 1:
            found.append("there is not one first heading")
        steps = itertools.pairwise(levels)
        found += [f"h{low} is followed by h{high}" for low, high in steps if high > low + 1]
        return found
