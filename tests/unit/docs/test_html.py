from __future__ import annotations

from tests.docs.html import is_elsewhere, read, split


def test_what_a_page_links_to_is_told_from_what_it_loads():
    found = read(
        '<link rel="stylesheet" href="a.css"><link rel="canonical" href="https://h/">'
        '<script src="b.js"></script>'
        '<nav class="md-header"><a href="logo.html">l</a></nav>'
        '<nav data-md-level="0"><a href="c.html">c</a><nav><a href="d.html">d</a></nav></nav>'
        '<h1 id="top"><a href="#top">x</a></h1><img src="e.png"><a>no link</a>'
    )
    assert found.loads == ["a.css", "b.js", "e.png"]
    assert found.leads == ["logo.html", "c.html", "d.html", "#top"]
    assert found.navigation == ["c.html", "d.html"]
    assert found.anchors == {"top"}


def test_a_target_of_another_site_is_elsewhere():
    assert is_elsewhere("https://h/x")
    assert is_elsewhere("//h/x.js")
    assert is_elsewhere("mailto:a@b")
    assert not is_elsewhere("../x.html#y")
    assert not is_elsewhere("data:image/png;base64,AA")
    assert split("../a%20b.html#c%C3%A9") == ("../a b.html", "cé")
