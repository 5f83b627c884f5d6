"""A run on the terminal: a progress bar, or one line an epoch where there is no terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = {
    "train_loss": "train loss {:.4f}",
    "val_top1": "held-out top-1 {:.2f} %",
    "val_ema_top1": "averaged held-out top-1 {:.2f} %",
    "loss": "test loss {:.4f}",
    "top1": "top-1 {:.2f} %",
    "top5": "top-5 {:.2f} %",
    "ema_top1": "averaged top-1 {:.2f} %",
    "ema_top5": "averaged top-5 {:.2f} %",
    "images_per_second": "{:,.0f} images/s",
}

FIVE = ("top5", "ema_top5")


class ProgressView:
    """Shows steps (bar, loss, learning rate, images/s, time left) and epochs on `console`.

    classes: of up to five the top-5 accuracy, 100 % always, is not shown.
    """

    def __init__(self, console: Console, *, classes: int | None = None) -> None:
        self._console = console
        self._hidden = FIVE if classes is not None and classes <= 5 else ()
        self._bar: Progress | None = None
        self._total_epochs = 0

    def start(self, *, step: int, total_steps: int, total_epochs: int) -> None:
        """Shows the bar at `step` of `total_steps`, if the console is a terminal."""
        self._total_epochs = total_epochs
        if not self._console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._bar.add_task("starting", total=total_steps, completed=step)
        self._bar.start()

    def step(self, step: int, values: dict[str, float]) -> None:
        """Moves the bar to `step`."""
        if self._bar is None:
            return
        text = "epoch {epoch}/{total}  loss {loss:.4f}  lr {lr:.2e}  {images_per_second:,.0f} images/s"
        description = text.format(total=self._total_epochs, **values)
        self._bar.update(self._bar.task_ids[0], completed=step, description=description)

    def epoch(self, values: dict[str, float]) -> None:
        """Prints one line."""
        parts = [
            text.format(values[name]) for name, text in SHOWN.items() if name in values and name not in self._hidden
        ]
        self.message("  ".join([f"epoch {values['epoch']}/{self._total_epochs}", *parts]))

    def message(self, text: str) -> None:
        """Prints `text` above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
