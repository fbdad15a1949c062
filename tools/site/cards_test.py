from tools.site.cards import card

EQUATION = (
    '<div class="math" id="equation-eq-a" tabindex="0">'
    '<span class="eqno">(3.4)<a class="headerlink" href="#equation-eq-a" title="Link">¶</a>'
    '<a class="verified" href="../equations.html#eq-a-tests" title="see">✓</a></span>'
    '<math><mi>x</mi><annotation encoding="application/x-tex">x</annotation></math></div>'
)
SIGNATURE = (
    '<dt class="sig sig-object py" id="a.b"><span class="sig-name">b</span>(<em>x</em>)'
    '<a class="reference internal" href="_modules/a.html#b"><span class="viewcode-link">'
    '<span class="pre">[source]</span></span></a></dt><dd><p>See <a href="c.html">c</a>.</p></dd>'
)


def test_an_equation_keeps_its_number_and_loses_its_place_marks_and_source():
    assert card(EQUATION) == (
        '<div class="math"><span class="eqno">(3.4)</span><math><mi>x</mi></math></div>'
    )


def test_a_signature_keeps_its_text_and_loses_its_links():
    assert card(SIGNATURE) == (
        '<dt class="sig sig-object py"><span class="sig-name">b</span>(<em>x</em>)</dt>'
        "<dd><p>See c.</p></dd>"
    )
