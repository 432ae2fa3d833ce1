"""Plots as SVG: a panel of bars for each figure of the summary, with minimum and maximum as a line."""

import html
import statistics

from peers import OURS

WIDTH, ROW, HEAD = 300, 15, 34
NAMES, BAR = 78, 150
COLUMNS = 3
# One colour per peer, the same in every panel. The gateway's is strong, the others are pale.
OUR_COLOUR, OTHERS = "#1f6feb", "#9aa4b2"
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 12px }
.unit { fill: #59636e; font-size: 10px }
.range { stroke: #1f2328; stroke-width: 1 }
"""


def short(value):
    """A figure with a useful number of digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def kind_of(unit):
    """The plot in which a unit is shown."""
    return "cpu" if "CPU" in unit else "memory" if unit in ("KB", "MB") else "latency"


def write(directory, tables, headlines):
    """Writes one file for each kind of figure."""
    for name in ("cpu", "memory", "latency"):
        panels = []
        for workload, figure, what, unit in headlines:
            if kind_of(unit) == name and workload in tables and figure in tables[workload].rows:
                panels.append((what, unit, rows(tables[workload], figure)))
        if panels:
            with open(f"{directory}/{name}.svg", "w") as file:
                file.write(drawing(panels))


def rows(table, figure):
    """Peers with their minimum, median and maximum."""
    found = []
    for peer in table.peers():
        values = table.values(figure, peer)
        if values:
            found.append((peer, min(values), statistics.median(values), max(values)))
    return found


def drawing(panels):
    most = max(len(peers_of) for _, _, peers_of in panels)
    height = HEAD + most * ROW + 14
    lines = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDTH} {lines * height}" '
        f'width="{columns * WIDTH}" height="{lines * height}" role="img">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, (what, unit, values) in enumerate(panels):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * height
        out.append(f'<g transform="translate({x + 8},{y + 4})">')
        out.append(f'<text class="title" y="12">{html.escape(what)}</text>')
        out.append(f'<text class="unit" y="24">{html.escape(unit)}, less is better</text>')
        out.extend(bars(values))
        out.append("</g>")
    return "\n".join([*out, "</svg>\n"])


def bars(values):
    # An outlier of one peer must not compress all other bars. The scale ends at three times the
    # median of the medians; a longer bar is cut and marked.
    largest = max(high for _, _, _, high in values)
    scale = min(largest, max(3 * statistics.median(middle for _, _, middle, _ in values), 1e-9))
    for place, (peer, low, middle, high) in enumerate(values):
        y = HEAD + place * ROW
        colour = OUR_COLOUR if peer == OURS else OTHERS
        length = lambda value: max(0.0, min(value / scale, 1.0)) * BAR  # noqa: E731
        yield f'<text x="{NAMES - 6}" y="{y + 3}" text-anchor="end">{html.escape(peer)}</text>'
        yield f'<rect x="{NAMES}" y="{y - 5}" width="{length(middle):.1f}" height="10" fill="{colour}"/>'
        if length(low) < BAR:
            yield f'<line class="range" x1="{NAMES + length(low):.1f}" x2="{NAMES + length(high):.1f}" y1="{y}" y2="{y}"/>'
        cut = "› " if middle > scale else ""
        after = NAMES + max(length(middle), length(high)) + 5
        yield f'<text x="{after:.1f}" y="{y + 3}">{cut}{short(middle)}</text>'
