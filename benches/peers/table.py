#!/usr/bin/python3
"""Medians of what `run` printed, and ratios to the bare protocol within the rounds.

    benches/peers/table.py FIGURES
    benches/peers/table.py --lines REPORT    figures of a report of `presume bench commit --json`
"""

import json
import statistics
import sys


def lines(report):
    """The bare protocol at its best number of clients, and ours, as the peers print theirs."""
    figures = report["rounds"]
    best = figures[0]
    yield line("bare", best["bare_clients"], best["bare"])
    for of in figures:
        yield line("alone", of["uncoalesced_in_flight"], of["uncoalesced"])
        yield line("presume", of["in_flight"], of["presume"])


def line(peer, clients, run):
    latency = {f"{q}_ms": run[f"answer_ms_{q}"] for q in ("p50", "p99")}
    return {"peer": peer, "clients": clients, **run, **latency}


def rounds(figures):
    """Figures up to and with those of the bare protocol and ours are of one round."""
    rounds, open_round, ours = [], [], False
    for figure in figures:
        of_ours = figure["peer"] in ("bare", "alone", "presume")
        if ours and not of_ours:
            rounds.append(open_round)
            open_round = []
        ours = of_ours
        open_round.append(figure)
    return rounds + [open_round]


def table(figures):
    by_way = {}
    for figures_of_round in rounds(figures):
        bare = [f["transfers_per_second"] for f in figures_of_round
                if f["peer"] == "bare"]
        for figure in figures_of_round:
            # Which number of clients is best for the bare protocol differs between rounds.
            way = (figure["peer"], "best" if figure["peer"] == "bare" else figure["clients"])
            rate = figure["transfers_per_second"]
            ratio = rate / bare[0] if bare else float("nan")
            latency = [figure[f"{q}_ms"] for q in ("p50", "p99")]
            by_way.setdefault(way, []).append((rate, ratio, *latency))
    yield "| | in flight | transfers/s | of bare | least, most | p50, p99 ms | rounds |"
    yield "|---|---|---|---|---|---|---|"
    for (peer, clients), seen in by_way.items():
        rate, ratio, p50, p99 = (statistics.median(of) for of in zip(*seen))
        ratios = [one[1] for one in seen]
        yield (f"| {peer} | {clients} | {rate:,.0f} | {ratio:.2f} | {min(ratios):.2f}, "
               f"{max(ratios):.2f} | {p50:.1f}, {p99:.1f} | {len(seen)} |")


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] == "--lines":
        with open(arguments[1], encoding="utf-8") as file:
            for line in lines(json.load(file)):
                print(json.dumps(line), flush=True)
    elif len(arguments) == 1 and not arguments[0].startswith("-"):
        with open(arguments[0], encoding="utf-8") as file:
            print("\n".join(table([json.loads(line) for line in file if line.strip()])))
    else:
        sys.exit(__doc__)


main()
