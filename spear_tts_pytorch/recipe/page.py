"""The report of a voice as one HTML file, with its pictures and sounds inside, that opens from disk.

In: the contents of results.json, and the voice folder that holds pictures and sounds. Out: HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from spear_tts_pytorch.recipe.judge import in_words

PICTURES = ("losses", "error_rates", "alignment", "histograms")
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ s.voice }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.6rem; border-bottom: 1px solid #ddd; }
.warning { background: #fff3cd; border-left: 4px solid #e0a800; padding: 0.5rem 1rem; margin: 0.5rem 0; }
img { max-width: 100%; }
audio { width: 14rem; height: 2.2rem; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ s.voice }}</h1>
<p>{{ s.data.clips }} clips, {{ "%.1f"|format(s.data.minutes) }} minutes; {{ s.data.labelled }} with a text to learn from
({{ "%.1f"|format(s.data.labelled_minutes) }} minutes), {{ s.data.test }} for testing. {{ "%.0f"|format(s.total_seconds) }} s of
work, seed {{ s.seed }}, spear-tts-pytorch {{ s.library_version }}, torch {{ s.torch_version }}.</p>
{% for warning in s.warnings %}<p class="warning">{{ warning }}</p>
{% endfor %}
{% if s.data.notes %}<ul>{% for note in s.data.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Stages</h2>
<table><tr><th>stage</th><th>result</th><th>seconds</th></tr>
{% for name, one in s.stages.items() %}
<tr><td>{{ name }}</td><td>{{ one.says }}</td><td>{{ "%.0f"|format(one.seconds) }}</td></tr>
{% endfor %}</table>
{% if rows %}<h2>Error rates</h2>
<p>CER: characters of generated speech in percent, read by an independent judge; in brackets 95 % bootstrap intervals over
{{ s.split }} texts. Best of {{ s.candidates }}: the reader chooses among {{ s.candidates }} samples. Units: edit distance to
the ids of the true speech, for each of these ids.{% if s.judge %} The judge: {{ in_words(s.judge) }}.{% endif %}</p>
<table><tr><th>column</th>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}
{% if heard %}<p>Resynthesised speech: percent of characters that a public recogniser misreads, and mel-cepstral distortion to
the recordings in dB.</p>
<table><tr><th>resynthesised</th><th>greedy</th><th>best of {{ s.candidates }}</th><th>MCD</th></tr>
{% for name, greedy, best, mcd in heard %}<tr><td>{{ name }}</td><td>{{ greedy }}</td><td>{{ best }}</td><td>{{ mcd }}</td></tr>
{% endfor %}</table>{% endif %}
{% for title, note, sounds in players if sounds %}<h2>{{ title }}</h2>
<p>{{ note }}</p>
<table>
{% for one in sounds %}
<tr><td>{% for name in one.files %}{% if wav(name) %}<audio controls preload="none" src="{{ wav(name) }}"></audio>
{% endif %}{% endfor %}</td><td>{{ one.text }}</td><td>{{ one.read_back or "" }}</td></tr>
{% endfor %}</table>
{% endfor %}
{% for name in pictures %}{% if png(name) %}<h2>{{ name.replace("_", " ")|capitalize }}</h2>
<img alt="{{ name.replace("_", " ") }}" src="{{ png(name) }}">
{% endif %}{% endfor %}
<h2>Settings</h2>
<pre>{% for section, values in s.settings.items() %}[{{ section }}]
{% for name, value in values.items() %}{{ name }} = {{ value|tojson }}
{% endfor %}
{% endfor %}</pre>
</body>
</html>
"""


def page(
    summary: Mapping[str, Any],
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    folder: Path,
    heard: Sequence[Sequence[str]] = (),
) -> str:
    """The HTML of a report.

    Args:
        summary: the contents of results.json.
        heads: names of the error rates.
        rows: of the table of error rates: a name, and one error rate for each of `heads`.
        folder: holds the pictures and sounds that the summary names. Those that are missing are left out.
        heard: of the table of resynthesised speech: name, greedy, best, distortion.
    """
    sounds = summary["sounds"]
    players = [
        ("What the units keep", "A clip, and its sound made of its ids alone.", sounds["units"]),
        ("What the reader hears", "Clips without a text, and their pseudo-labels.", sounds["labels"]),
        ("What the voice says", "A text, and what the reader reads in its speech.", summary["examples"]),
    ]

    def png(name: str) -> str:
        return _embedded(folder / f"{name}.png", "image/png")

    def wav(name: str) -> str:
        return _embedded(folder / name, "audio/wav")

    made = jinja2.Environment(autoescape=True, trim_blocks=False).from_string(TEMPLATE)
    return made.render(
        s=summary,
        in_words=in_words,
        heads=heads,
        rows=rows,
        heard=heard,
        players=[(title, note, [_shown(one) for one in some]) for title, note, some in players],
        pictures=PICTURES,
        png=png,
        wav=wav,
    )


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    files = one.get("files") or ([one["file"]] if one.get("file") else [])
    return {"files": files, "text": one["text"], "read_back": one.get("read_back")}


def _embedded(path: Path, kind: str) -> str:
    """A file as a data URL; "" if there is none."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
