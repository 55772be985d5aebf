"""A marimo notebook: which tokens of a picture or clip a method keeps under a budget.

pip install "tubelet[hf]" marimo
marimo edit examples/notebook/notebook.py     # or: marimo run
"""

import marimo

app = marimo.App(width="medium", app_title="tubelet: which tokens stay")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo
    from look import look, methods

    from tubelet.errors import TubeletError

    return Path, TubeletError, look, methods, mo


@app.cell
def _(Path, mo):
    examples = Path(__file__).resolve().parents[1]
    browser = mo.ui.file_browser(examples, multiple=False, label="a picture or clip (receipt.png until you choose)")
    words = mo.ui.text("What is the total?", label="question, or words to look for", full_width=True)
    percent = mo.ui.slider(1, 100, value=15, label="tokens kept, in percent", show_value=True)
    mo.vstack([browser, words, percent])
    return browser, examples, percent, words


@app.cell
def _(methods, mo, words):
    names = methods(words.value)
    method = mo.ui.dropdown(names, value="text" if "text" in names else "divprune", label="method")
    method  # noqa: B018  a cell shows its last line
    return (method,)


@app.cell
def _(TubeletError, browser, examples, look, method, mo, percent, words):
    file = str(browser.path(0) or examples / "receipt.png")
    try:
        picture, numbers = look(file, method.value, percent.value, words.value)
        shown = mo.vstack([mo.ui.table([numbers], selection=None), mo.image(picture)])
    except TubeletError as e:
        shown = mo.callout(str(e), kind="danger")
    shown  # noqa: B018
    return


if __name__ == "__main__":
    app.run()
