"""What a person sees of a live run while it goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from inframind.live import RunView


@contextmanager
def dashboard(names: Sequence[str], num_queries: int) -> Iterator[Callable[[RunView], None]]:
    """A table on stderr that follows the run; yields what takes the run's state. Nothing where that is no terminal.

    Parameters
    ----------
    names
        Of the servers.
    num_queries
        Of the whole run.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda view: None
        return
    # Drawn by whoever calls: a thread of its own would delay the clock of the run.
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        yield lambda view: screen.update(progress_table(view, names, num_queries), refresh=True)


def progress_table(view: RunView, names: Sequence[str], num_queries: int) -> Table:
    """The table of one moment."""
    share = f"{view.num_on_time / view.num_ended:.0%}" if view.num_ended else "-"
    head = f"{view.t:,.0f} s: {view.num_arrived} of {num_queries} queries came, {view.num_ended} done, {share} on time"
    table = Table(title=head, title_justify="left", title_style="bold")
    for column in ("server", "running", "waiting", "own calls", "polled before"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, server in zip(names, view.servers, strict=True):
        state = name if server.is_open else f"{name} (closed)"
        age = f"{max(view.t - server.polled_at, 0):.1f} s"
        table.add_row(state, str(server.running), str(server.waiting), str(server.in_flight), age)
    return table
