"""Tables of what was found, and one picture of all fronts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefreg.evaluation.plots import Canvas, front
from prefreg.evaluation.plots import Point as Placed
from prefreg.evaluation.statistics import grouped_mean, holm
from rivals.placing import EFFECTS, KINDS, figures
from rivals.trade import Point, Trade, best, compared, merge, of_method

LIMITS = (0.25, 0.5, 1.0, 2.0)
"""Nats per answer at which methods are compared."""
SHOWN = (0.5, 2.0)
"""Nats up to which settings stand on a front of the picture."""
LEVEL = 0.05
OURS = "preference vectors"
STYLES = {
    OURS: ("#000000", "o"),
    "φ₊ only": ("#0072B2", "s"),
    "reward soup": ("#56B4E9", "D"),
    "mixed DPO": ("#D55E00", "^"),
    "safe-first labels": ("#E69F00", "v"),
    "harmless, then helpful": ("#F0A0A0", "<"),
    "contrastive SFT": ("#009E73", "P"),
    "logit mixing": ("#CC79A7", "X"),
    "activation addition": ("#888888", "h"),
    "system prompt": ("#B8860B", "*"),
}


def tables(found: Sequence[Mapping[str, Any]]) -> str:
    """Write costs, trades at equal price, and what stands behind them, as markdown."""
    points = merge([each["points"] for each in found])
    methods = [name for name in STYLES if len(of_method(points, name)) > 1]
    trades = {name: [best(of_method(points, name), limit) for limit in LIMITS] for name in methods}
    parts = [_costs(found, methods), _products(trades), _behind(trades)]
    if len(found) > 1:
        parts.append(_by_seed(found, methods))
    return "\n\n".join(parts) + "\n"


def _costs(found: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    lines = [
        "| method | settings | runs | training, thousand tokens "
        "| training, processor s | sampling, processor s per 1,000 answers |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods:
        costs = [each["costs"][method] for each in found if method in each["costs"]]
        if not costs:
            continue
        settings = [
            point
            for each in found
            for point in each["points"].values()
            if point["method"] == method
        ]
        mean = {key: sum(cost[key] for cost in costs) / len(costs) for key in costs[0]}
        answers = len(KINDS) * found[0]["prompts"]
        seconds = sum(point["seconds"] for point in settings) / len(settings)
        lines.append(
            f"| {method} | {len(settings) // len(found)} | {mean['runs']:.0f} "
            f"| {mean['tokens'] / 1000:.0f} | {mean['seconds']:.0f} "
            f"| {1000 * seconds / answers:.1f} |"
        )
    return "\n".join(lines)


def _products(trades: Mapping[str, Sequence[Trade]]) -> str:
    heads = " | ".join(f"{limit:g} nats" for limit in LIMITS)
    lines = [f"| helpful × harmless at | {heads} |", "|---" * (len(LIMITS) + 1) + "|"]
    marks = _marks(trades)
    for method, found in trades.items():
        cells = [
            f"{trade.product.estimate}{marks.get((method, place), '')}"
            for place, trade in enumerate(found)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _marks(trades: Mapping[str, Sequence[Trade]]) -> dict[tuple[str, int], str]:
    """Mark what differs from preference vectors at .05, over all comparisons (Holm)."""
    if OURS not in trades:
        return {}
    found = {
        (method, place): compared(trade, trades[OURS][place])
        for method, each in trades.items()
        for place, trade in enumerate(each)
        if method != OURS
    }
    adjusted = holm({key: each.p for key, each in found.items()})
    return {
        key: " ▲" if each.estimate.value > 0 else " ▼"
        for key, each in found.items()
        if adjusted[key] < LEVEL
    }


def _behind(trades: Mapping[str, Sequence[Trade]], limit: float = 1.0) -> str:
    lines = [
        f"| at {limit:g} nat | helpful | harmless | KL | malformed | correct "
        "| settings, by either half |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, found in trades.items():
        trade = found[LIMITS.index(limit)]
        settings = "; ".join(_settings(half, method) for half in trade.chosen)
        lines.append(
            f"| {method} | {trade.helpful:.2f} | {trade.harmless:.2f} | {trade.nats:.2f} "
            f"| {trade.malformed:.3f} | {trade.correct:.2f} | {settings} |"
        )
    return "\n".join(lines)


def _settings(half: Mapping[str, float], method: str) -> str:
    """Name a setting, or both between which a coin is tossed."""
    names = {name: name.removeprefix(method).strip() for name in half}
    if len(names) == 1:
        return next(iter(names.values()))
    return " and ".join(f"{share:.0%} {names[name]}" for name, share in half.items())


def _by_seed(found: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    heads = " | ".join(f"{limit:g} nats" for limit in LIMITS)
    seeds = ", ".join(str(each["seed"]) for each in found)
    lines = [f"| seeds {seeds} | {heads} |", "|---" * (len(LIMITS) + 1) + "|"]
    for method in methods:
        cells = []
        for limit in LIMITS:
            each = [best(of_method(one["points"], method), limit) for one in found]
            cells.append(", ".join(f"{one.helpful * one.harmless:.2f}" for one in each))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Sequence[Mapping[str, Any]], destination: Path) -> None:
    """Draw the front of every method at two prices, and its best trade against the price."""
    points = merge([each["points"] for each in found])
    prompts = found[0]["prompts"]
    seeds = ", ".join(str(each["seed"]) for each in found)
    caption = (
        f"The bundled model, {prompts} prompts of either kind, one sampled answer each, "
        f"training seed {seeds}; {found[0]['steps']} steps a pole. Left and "
        "middle: settings that no other of their method beats in both effects at no more than the "
        "price above. Bars: 95 % intervals over prompts. Right: settings (or a coin between two) "
        "chosen on one half of the prompts and shown on the other. "
        "python benchmarks/alternatives.py"
    )
    title = "Preference vectors and what else one could do"
    with Canvas(
        destination, title=title, caption=caption, columns=3, width=4.7, height=4.6
    ) as canvas:
        *fronts, last = canvas.panels
        for panel, limit in zip(fronts, SHOWN, strict=True):
            _draw_fronts(panel, points, limit)
        _draw_trades(last, points)
        # Beside the panels: inside, it would lie on the methods that do little.
        canvas.figure.legend(
            *last.get_legend_handles_labels(), fontsize=8, loc="outside right center"
        )


def _draw_fronts(panel: Any, points: Mapping[str, Point], limit: float) -> None:
    for method, (colour, marker) in STYLES.items():
        placed = [
            _placed(name, each)
            for name, each in of_method(points, method).items()
            if figures(each)["kl"] <= limit
        ]
        best_of = front(placed)
        if len(of_method(points, method)) < 2:
            continue
        panel.errorbar(
            [each.x.value for each in best_of],
            [each.y.value for each in best_of],
            xerr=_bars([each.x for each in best_of]),
            yerr=_bars([each.y for each in best_of]),
            color=colour, marker=marker, markersize=5, linewidth=1.2, elinewidth=0.4,
            zorder=5 if method == OURS else 3,
        )  # fmt: skip
    base = _placed("base", points["base"])
    panel.plot(base.x.value, base.y.value, "+", markersize=13, color="#000000", zorder=6)
    panel.annotate("base", (base.x.value, base.y.value), (-9, -14), textcoords="offset points")
    panel.set_title(f"fronts at KL ≤ {limit:g} nats an answer", fontsize=10)
    panel.set_xlabel("helpful: share of benign questions answered")
    panel.set_ylabel("harmless: share of unsafe requests refused")
    panel.grid(alpha=0.25)


def _draw_trades(panel: Any, points: Mapping[str, Point]) -> None:
    for place, (method, (colour, marker)) in enumerate(STYLES.items()):
        own = of_method(points, method)
        if len(own) < 2:
            continue
        found = [best(own, limit).product.estimate for limit in LIMITS]
        panel.errorbar(
            # Side by side, so that intervals can be told apart.
            [limit * 1.02 ** (place - 5) for limit in LIMITS],
            [each.value for each in found],
            yerr=_bars(found),
            color=colour, marker=marker, markersize=5, linewidth=1.2, elinewidth=0.6, label=method,
            zorder=5 if method == OURS else 3,
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_xticks(LIMITS, [f"{limit:g}" for limit in LIMITS])
    panel.minorticks_off()
    panel.set_title("best trade at equal price", fontsize=10)
    panel.set_xlabel("KL(π ‖ π_0) of at most, nats an answer")
    panel.set_ylabel("helpful × harmless")
    panel.grid(alpha=0.25)


def _placed(name: str, point: Point) -> Placed:
    helpful, harmless = (
        grouped_mean(hits, range(len(hits)), draws=2000)
        for hits in (point[kind]["hits"] for kind in EFFECTS.values())
    )
    return Placed(name, helpful, harmless)


def _bars(found: Sequence[Any]) -> list[list[float]]:
    return [
        [each.value - each.low for each in found],
        [each.high - each.value for each in found],
    ]
