"""Adds the forecast and its picture to an exported model's card, which the runtime writes without them. I/O."""

from pathlib import Path

from scalerl_api import RLRun
from scalerl_api.wire import CARD_FILE, CARD_FORECAST, EXPORT_FILE
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.render.text import describe_forecast, describe_source
from scalerl_operator.run.progress import compute_unit

PICTURE_FILE = "pass_rate.png"


def describe_for_card(run: RLRun, *, has_picture: bool) -> str:
    """Return the card's section on the forecasts: ceiling with its 90 % interval, verdict and reason."""
    forecast = run.status.forecast if run.status is not None else None
    text = describe_forecast(forecast, compute_unit(run)) if forecast is not None else "No forecast was made."
    reason = f"\n\n{forecast.reason}" if forecast is not None and forecast.ceiling is not None else ""
    sources = run.status.source_forecasts if run.status is not None else []
    by_source = "".join(f"\n- {each.name}: {describe_source(each, compute_unit(run))}" for each in sources)
    by_source = f"\n\nBy training source:\n{by_source}" if by_source else ""
    picture = f"\n\n![held-out pass rate with the fitted curve]({PICTURE_FILE})" if has_picture else ""
    return f"{text[:1].upper()}{text[1:]}{reason}{by_source}{picture}"


def complete_card(folder: Path, run: RLRun, picture: Path | None) -> None:
    """Fill the place for the forecast in the card of `folder`, and copy the picture beside it. Harmless if repeated."""
    card = folder / CARD_FILE
    if not card.is_file() or not (folder / EXPORT_FILE).is_file():
        return
    text = card.read_text(encoding="utf-8")
    if CARD_FORECAST not in text:
        return
    if picture is not None:
        (folder / PICTURE_FILE).write_bytes(picture.read_bytes())
    save_text(card, text.replace(CARD_FORECAST, describe_for_card(run, has_picture=picture is not None)))
