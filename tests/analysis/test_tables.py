"""A table is the same in three forms, whatever is in its cells."""

from markupsafe import escape

from molo_jax.analysis.tables import Number, Table, as_latex, as_markdown, as_text, latex, markdown

TABLE = Table(
    "What & whose",
    ["Name", "1-shot"],
    [["a|b", Number(0.5, 0.012, best=True)], ["c_d\nnext", Number(-0.004, signed=True)]],
    notes=["100 % sure."],
)


def test_plain_text_is_aligned_and_each_row_is_one_line():
    assert as_text(TABLE).splitlines() == [
        "What & whose",
        "-" * 20,
        "Name          1-shot",
        "-" * 20,
        "a|b       50.0 ± 1.2",
        "c_d next        −0.4",
        "-" * 20,
        "100 % sure.",
    ]


def test_markdown_has_one_cell_for_each_name_and_marks_the_best():
    assert as_markdown(TABLE) == (
        "**What &amp; whose**\n\n"
        "| Name | 1-shot |\n| :-- | --: |\n"
        "| a\\|b | **50.0 ± 1.2** |\n| c\\_d next | −0.4 |\n\n100 % sure."
    )


def test_latex_is_a_booktabs_table():
    assert as_latex(TABLE).splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{What \& whose. 100 \% sure.}",
        r"  \begin{tabular}{lr}",
        r"    \toprule",
        r"    Name & 1-shot \\",
        r"    \midrule",
        r"    a\textbar{}b & \textbf{50.0 $\pm$ 1.2} \\",
        r"    c\_d next & $-$0.4 \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def test_every_special_character_is_escaped_once():
    # The command before a row would take these for its argument.
    assert latex("[Something] falls") == "{}[Something] falls"
    assert latex("*") == "{}*"
    assert latex("\\&%$#_{}~^<>|\"'`") == (
        r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textless{}"
        r"\textgreater{}\textbar{}\textquotedbl{}\textquotesingle{}\textasciigrave{}"
    )
    assert markdown("<b>&amp;</b>") == str(escape("<b>&amp;</b>"))
    assert markdown("*a* `b` [c](d) ~e~") == r"\*a\* \`b\` \[c\](d) \~e\~"
    assert markdown("a\0b\u202ec\td") == "a b c d"


def test_a_number_says_its_sign_where_it_is_a_difference():
    assert Number(0.1234, 0.01, signed=True).text() == "+12.3 ± 1.0"
    assert Number(0.1234).text() == "12.3"
