"""The results as text on the screen, and as tables in Markdown, from the same records as the JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from suite import start_up
from suite.peers import OURS

Record = dict[str, Any]


def number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - len(str(int(abs(value)))) + 1)}f}"


def share(value: float | None) -> str:
    """A percentage."""
    if value is None:
        return ""
    return "< 1 %" if value < 0.01 else f"{100 * value:.0f} %"


def duration(us: float | None) -> str:
    """Microseconds, or seconds where there are many."""
    return f"{us / 1e6:.2f} s" if us is not None and us >= 1e6 else number(us)


def megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.3g}"


def verdict(r: Record) -> str:
    """The ratio of ours, or why there is none."""
    if r["status"] != "ok":
        return f"{r['status'].upper() if r['status'] == 'failed' else r['status']}: {r.get('reason', '')}"
    return f"{r['ratio']:.2f} x {r['best_peer']}" if "ratio" in r else ""


HEADS = ("", "us", "p20", "p80", "GFLOP/s", "GB/s", "of limit", "error", "peak MB", "best peer's time / ours")


def cells(r: Record) -> list[str]:
    """One line of a table."""
    error = r.get("error")
    return [
        r["who"], duration(r.get("us")), duration(r.get("p20")), duration(r.get("p80")), number(r.get("gflop_per_s")),
        number(r.get("gb_per_s")), share(r.get("of_limit")), "" if error is None else f"{error:.0e}",
        megabytes(r.get("memory_bytes")), verdict(r),
    ]  # fmt: skip


def aligned(words: Sequence[str]) -> str:
    widths = (16, 11, 11, 11, 9, 8, 9, 8, 9)
    line = f"  {words[0]:<{widths[0]}}"
    return line + "".join(f"{w:>{n}}" for w, n in zip(words[1:9], widths[1:], strict=True)) + "   " + words[9]


def row_text(records: Sequence[Record]) -> str:
    """A row as it is printed when it is done."""
    first, without = records[0], [r for r in records if r["status"] == "not supported"]
    lines = [f"{first['name']}, {first['shape']}", *(aligned(cells(r)) for r in records if r not in without)]
    if without:
        reasons = [f"{r['who']}: {r['reason']}" for r in without]
        lines.append(f"  without {'; '.join(reasons)}")
    return "\n".join(lines)


def heads_text() -> str:
    return aligned(HEADS)


def grouped(records: Sequence[Record]) -> Iterator[list[Record]]:
    """The records of one row after the other."""
    group: list[Record] = []
    for r in records:
        if group and (r["suite"], r["name"], r["shape"]) != (
            group[0]["suite"],
            group[0]["name"],
            group[0]["shape"],
        ):
            yield group
            group = []
        group.append(r)
    if group:
        yield group


def limits_text(limits: dict[str, Any]) -> str:
    """The yardstick in a sentence."""
    found = [f"{who} {rate:.0f}" for who, rate in limits["matmul_gflops"].items()]
    products = f"; products of 1024 cubed reach, in GFLOP/s: {', '.join(found)}" if found else ""
    if limits["fma_gflops"] is None:
        return f"the machine's limit is unknown: {limits['reason']}{products}"
    copies = ", ".join(f"{rate:.1f} ({int(n):,})" for n, rate in limits["copy_gb_per_s"].items())
    return (
        f"{limits['fma_gflops']:.0f} GFLOP/s of float32 fused multiply-adds with {limits['threads']} threads; "
        f"copies, in GB/s read and written (elements): {copies}{products}"
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in [list(heads), ["---"] * len(heads), *escaped]]


def summary(groups: Sequence[Sequence[Record]]) -> list[str]:
    """One line for each row: ours, the best peer, and the ratio."""
    lines = []
    for records in groups:
        ours = [r for r in records if r["who"] in OURS and r.get("us")]
        right = [r for r in records if r["who"] not in OURS and r["status"] == "ok"]
        best = min(right, key=lambda r: float(r["us"]), default=None)
        for r in ours:
            lines.append([
                f"{r['name']}, {r['shape']}", r["who"], duration(r["us"]),
                f"{duration(best['us'])} ({best['who']})" if best else "",
                f"{r['ratio']:.2f}" if "ratio" in r else verdict(r), share(r.get("of_limit")),
            ])  # fmt: skip
    return table(("row", "ours", "us", "best peer, us", "best peer's time / ours", "of limit"), lines)


def markdown(document: dict[str, Any]) -> str:
    """All of it."""
    cpu, lines = document["cpu"], ["# Benchmarks on the CPU", ""]
    lines += [f"`{document['command']}`, {document['started']}, {document['seconds']:.0f} s.", ""]
    lines += [f"{cpu['model']}, {document['threads']} of {cpu['cores']} cores.", ""]
    lines += [f"Limits: {limits_text(document['limits'])}.", ""]
    lines += [document["method"], ""]
    who = [[name, about.get("words", ""), ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())
            or about.get("missing", "")] for name, about in document["peers"].items()]  # fmt: skip
    lines += [*table(("peer", "written as", "versions"), who), ""]
    for suite in dict.fromkeys(r["suite"] for r in document["rows"]):
        groups = list(grouped([r for r in document["rows"] if r["suite"] == suite]))
        lines += [f"## {suite}", "", *summary(groups), "", "### Every peer", ""]
        each = [[f"{r['name']}, {r['shape']}" if r is records[0] else "", *cells(r)]
                for records in groups for r in records if r["status"] != "not supported"]  # fmt: skip
        lines += [*table(("row", "who", *HEADS[1:]), each), ""]
    if "overhead" in document:
        lines += ["```", start_up.engine_text(document["overhead"]), "```", ""]
    if document["left_out"]:
        lines += ["There was no time for:", "", *(f"- {title}" for title in document["left_out"]), ""]
    return "\n".join(lines)
