"""Line charts as SVG, one panel above another over a common time axis. Knows nothing of what the lines mean."""

import html

WIDTH, PANEL_HEIGHT, LEFT, RIGHT, GAP = 960, 150, 76, 190, 42
COLOURS = ("#1f6fb2", "#d1495b", "#3a8f5c", "#c78a1d", "#7552a3", "#4b5563", "#0f9b9b", "#b0578d")


def plot(path, title, panels):
    """`panels`: a list of (caption, {name: [(seconds, value)]}), drawn from above."""
    height = 40 + len(panels) * (PANEL_HEIGHT + GAP)
    longest = max((x for _, lines in panels for points in lines.values() for x, _ in points), default=1) or 1
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
             text(LEFT, 20, title, size=14)]
    for nth, (caption, lines) in enumerate(panels):
        parts += panel(44 + nth * (PANEL_HEIGHT + GAP), caption, lines, longest)
    with open(path, "w") as file:
        file.write("\n".join([*parts, "</svg>\n"]))


def panel(top, caption, lines, longest):
    greatest = max((y for points in lines.values() for _, y in points), default=0) or 1
    bottom, width = top + PANEL_HEIGHT, WIDTH - LEFT - RIGHT
    parts = [text(LEFT, top - 5, caption),
             f'<rect x="{LEFT}" y="{top}" width="{width}" height="{PANEL_HEIGHT}" fill="none" stroke="#ccc"/>']
    for share in (0, 0.5, 1):
        parts.append(text(LEFT - 6, bottom - share * PANEL_HEIGHT + 4, human(greatest * share), anchor="end"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(text(LEFT + share * width, bottom + 13, f"{longest * share:.0f} s", anchor="middle"))
    for nth, (name, points) in enumerate(lines.items()):
        colour = COLOURS[nth % len(COLOURS)]
        path = " ".join(f"{LEFT + x / longest * width:.1f},{bottom - y / greatest * PANEL_HEIGHT:.1f}"
                        for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(text(WIDTH - RIGHT + 10, top + 12 + nth * 15, name, colour=colour))
    return parts


def text(x, y, words, anchor="start", colour="#222", size=11):
    return (f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">'
            f"{html.escape(words)}</text>")


def human(value):
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
