"""Images with values that are no numbers: named before they reach a model and ruin its running statistics."""

from torch import Tensor

from spimm.data import Loader

NAMED = 3
"""Images that the error names."""


def check_images(images: Tensor, loader: object, epoch: int, batch: int) -> None:
    """ValueError naming the images of a batch, [B, ...] as `loader` made it, that hold a NaN or an infinity."""
    if bool(images.sum().isfinite()):  # one pass; sums of finite values may overflow, so that the next line decides
        return
    wrong = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if not wrong:
        return
    names = loader.names(epoch, batch) if isinstance(loader, Loader) else None
    named = [f"image {position + 1}" if names is None else names[position] for position in wrong[:NAMED]]
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    raise ValueError(
        f"{', '.join(named)}{more} in batch {batch + 1} of epoch {epoch + 1}: NaN or infinite values; expected finite "
        "ones: look at mean and std, then at the images"
    )
