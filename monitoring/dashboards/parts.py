"""What the boards are made of: panels, variables, and what every board has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

Query = tuple[str, str]  # PromQL, and what its series are called
Steps = Sequence[tuple[float, str]]  # a colour from a value on; green below the first

SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOK = "(.+?)(Fast|Slow)?"  # the alert's name; two speeds of one alert share a page
ATTEMPTS_PER_MINUTE = "opm"
RATIO, PERCENT, SECONDS, COUNT, BYTES, BYTES_PER_SECOND = "percentunit", "percent", "s", "short", "bytes", "Bps"
WORK_PER_VIDEO = "suffix: s/s"
BAD_SHARE: Steps = ((0.01, "yellow"), (0.05, "red"))
ANY_IS_BAD: Steps = ((1, "red"),)
_WIDTH, _HEIGHT = 24, 8


def graph(title: str, says: str, unit: str, *queries: Query, steps: Steps = (), stacked: bool = False) -> Any:
    """Lines over time; steps are dashed lines."""
    panel = _common(timeseries.Panel(), title, says, unit, steps).height(_HEIGHT).span(_WIDTH // 3)
    panel = panel.line_width(1).fill_opacity(40 if stacked else 5).show_points(common_models.VisibilityMode.NEVER)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    ).tooltip(
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if steps:
        dashed = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(dashed)
    return _with_queries(panel, queries)


def wide(panel: Any) -> Any:
    """Half of the board instead of a third."""
    return panel.span(_WIDTH // 2)


def number(title: str, says: str, unit: str, expr: str, steps: Steps = (), legend: str = "") -> Any:
    """The value now, coloured by the steps, with its course behind it."""
    panel = _common(stat.Panel(), title, says, unit, steps).height(4).span(_WIDTH // 6)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    colours = common_models.BigValueColorMode.VALUE if steps else common_models.BigValueColorMode.NONE
    return _with_queries(panel.color_mode(colours), [(expr, legend)])


def states(title: str, says: str, expr: str, legend: str, names: dict[str, tuple[str, str]]) -> Any:
    """A band for each series, coloured by the value's name."""
    panel = _common(statetimeline.Panel(), title, says, "none", ()).height(_HEIGHT).span(_WIDTH // 2)
    known = {value: models.ValueMappingResult(text=text, color=colour) for value, (text, colour) in names.items()}
    return _with_queries(panel.mappings([models.ValueMap(options=known)]), [(expr, legend)])


def listing(
    title: str,
    says: str,
    columns: dict[str, Query],
    by: Sequence[str],
    link: str = "",
    units: dict[str, str] | None = None,
) -> Any:
    """A row for each set of labels `by`; columns are titles with a query and nothing, joined where labels agree.

    `link` is an address for the first label.
    """
    panel = _common(table.Panel(), title, says, COUNT, ()).height(_HEIGHT).span(_WIDTH)
    for letter, (expr, _) in zip("ABCDEFGHIJ", columns.values(), strict=False):
        query = prometheus.Dataquery().datasource(SOURCE).expr(expr).instant().ref_id(letter)
        panel = panel.with_target(query.format("table"))
    letters = dict(zip(columns, "ABCDEFGHIJ", strict=False))
    renamed = {f"Value #{letter}": name for name, letter in letters.items()}
    if len(columns) == 1:
        renamed["Value"] = next(iter(columns))
    panel = panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    shown = {name: position for position, name in enumerate([*by, *renamed])}
    panel = panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": shown, "renameByName": renamed},
        )
    )
    for name, unit in (units or {}).items():
        panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    if link:
        to = {"title": "Open", "url": link}
        panel = panel.override_by_name(by[0], [models.DynamicConfigValue(id_val="links", value=[to])])
    return panel


def alerts(selector: str) -> Any:
    """The alerts that fire now, each with the way to its runbook."""
    firing = f"sum by (alertname, severity, region, node_id, model_version, tenant) (ALERTS{{{selector}}})"
    return listing(
        "Alerts firing",
        "Follow the name to the runbook. Nothing here: nothing fires.",
        {"firing": (f'label_replace({firing}, "runbook", "$1", "alertname", "{RUNBOOK}")', "")},
        by=("alertname", "severity", "region", "node_id", "model_version", "tenant", "runbook"),
        link="${runbooks:raw}/${__data.fields.runbook}.md",
    )


def variable(name: str, label: str, metric: str, *, single: bool = False) -> Any:
    """Values of a label of a metric: several and all of them, or one."""
    query = f"label_values({metric}, {name})"
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query({"query": query, "refId": name})
    made = made.definition(query).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made = made.sort(models.VariableSort.ALPHABETICAL_ASC)
    return made if single else made.multi(True).include_all(True).all_value(".*").current(_ALL)


def board(
    uid: str, title: str, says: str, variables: Iterable[Any], firing: str, rows: dict[str, Sequence[Any]]
) -> models.Dashboard:
    """`firing` selects the alerts that concern this board, if any do; rows are panels by their title."""
    made = dashboard.Dashboard(title).uid(uid).description(says).tags(["sonic"])
    made = made.refresh("30s").time("now-3h", "now").timezone("browser")
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR)
    made = made.link(
        dashboard.DashboardLink("Sonic")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags(["sonic"])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
    made = made.link(
        dashboard.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK).url("${runbooks}").target_blank(True)
    )
    if firing:
        made = made.annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr(f"ALERTS{{{firing}}}")
            .step("60s")
            .title_format("{{alertname}}")
            .text_format("{{region}} {{node_id}} {{tenant}}")
        )
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for one in variables:
        made = made.with_variable(one)
    made = made.with_variable(
        dashboard.TextBoxVariable("runbooks")
        .label("Runbooks")
        .description("Where your team reads docs/runbooks.")
        .default_value("https://git.example.net/sonic-fleet/docs/runbooks")
        .hide(models.VariableHide.HIDE_VARIABLE)
    )
    numbered = iter(range(1, 1000))
    for row_title, panels in rows.items():
        made = made.with_row(dashboard.Row(row_title).id(next(numbered)))
        for panel in panels:
            made = made.with_panel(panel.id(next(numbered)))
    built = made.build()
    for one in (*(built.links or ()), *((built.annotations and built.annotations.list_val) or ())):
        one.placement = None  # the SDK would hide it in a menu
    return built


_ALL = models.VariableOption(selected=True, text="All", value="$__all")


def _common(panel: Any, title: str, says: str, unit: str, steps: Steps) -> Any:
    bounds = [models.Threshold(value=None, color="green"), *(models.Threshold(value=v, color=c) for v, c in steps)]
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(bounds)
    return panel.title(title).description(says).unit(unit).datasource(SOURCE).thresholds(thresholds)


def _with_queries(panel: Any, queries: Iterable[Query]) -> Any:
    for letter, (expr, legend) in zip("ABCDEFGHIJ", queries, strict=False):
        query = prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).range().ref_id(letter)
        panel = panel.with_target(query)
    return panel
