"""Fill the templates that stand beside the code that uses them; values are escaped for the format that the template writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunekit.validation.escape import code, markdown, python_text


def render(template: str, **values: object) -> str:
    """Fill a template of the package.

    Parameters
    ----------
    template : str
        Its path within the package: "report/report.html.jinja". The ending says what is written: HTML or Markdown.
    **values
        What the template names. All of it is escaped when it is written, except for ``markupsafe.Markup``.

    Returns
    -------
    str
    """
    return _environment(markdown if template.endswith(".md.jinja") else None).get_template(template).render(values)


@cache
def _environment(escape: Callable[[str], str] | None) -> Environment:
    environment = Environment(
        loader=PackageLoader("prunekit", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    if escape is not None:
        # Jinja's own escaping is HTML's; what was escaped here first is left alone by it.
        environment.finalize = lambda value: value if isinstance(value, Markup) else Markup(escape(str(value)))
    environment.filters |= {"code": lambda text: Markup(code(text)), "python": lambda text: Markup(python_text(text))}
    return environment
