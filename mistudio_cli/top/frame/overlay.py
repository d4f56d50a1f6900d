"""What covers the panes: the details of a row, and the help."""

from __future__ import annotations

from mistudio_cli.terminal.humanize import duration
from mistudio_cli.top.frame.text import Line, Span, fitted, wrapped
from mistudio_cli.top.view import View

HELP = """Panes
  1 2 3 4 5, Tab        jobs, queues, GPUs, workers, hosts; the next one
  ↑ ↓, k j              the row above, the row below
  PgUp PgDn, Home End   a page up or down, the first row, the last
  Enter                 details of the job, queue, GPU, worker or host
  f                     details of the job or worker, following its log
  Mouse                 the wheel moves, a click selects, one more opens details
Choosing
  /                     filter the pane: all words must be in the kind, name,
                        state, tag, queue or id; !word must not
  s                     sort by the next column, in reverse video; then unsorted
  S                     reverse the order
  Space                 freeze the screen, and continue
  Ctrl-L                draw the whole screen again
Changing, each after y
  c                     cancel the job
  R                     retry the job
  + -                   raise or lower the priority of a waiting job
  p                     pause or resume the queue of the row
Leaving
  q, Ctrl-C, Esc        back; on the panes q and Ctrl-C quit
  Ctrl-Z                suspend; fg continues

Waiting jobs are listed in the order in which they will start. On one line a queue reads
"training 3+2 paused": 3 jobs wait and 2 run. What could not be read again is dimmed, with
its age. Lines that begin with ! are alarms.""".splitlines()


def overlaid(view: View, room: int, rows: int) -> tuple[list[Line], int]:
    """The lines of what is open, and how far it can be scrolled."""
    if view.help:
        title, said = "Help", [Span(line, "" if line.startswith(" ") else "bold") for line in HELP]
        body = [line for span in said for line in wrapped(span, room)]
    else:
        assert view.details is not None
        title, body = view.details.title, view.details.painted(room)
    most = max(0, len(body) - (rows - 1))
    start = most if view.follow else min(view.scroll, most)
    where = f"  lines {start + 1}-{min(len(body), start + rows - 1)} of {len(body)}" if most else ""
    following = "  following" if view.follow else ""
    old = (
        "" if view.details is None or view.help or not view.details.age_s else f"  ({duration(view.details.age_s)} ago)"
    )
    head: Line = (Span(title, "bold"), Span(f"{where}{following}{old}", "dim"))
    shown = [fitted(line, room) for line in (head, *body[start : start + rows - 1])]
    return shown + [()] * (rows - len(shown)), most
