"""The report's style sheet: one column on a phone, light and dark by the reader's system."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --muted: #5d6879; --rule: #e3e7ed;
  --c0: #2f6fde; --c1: #d9622b; --c2: #1f9d76; --good: #1a7f52; --warn: #b4510a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1a2029; --ink: #e6eaf0; --muted: #98a4b5; --rule: #2c3542;
  --c0: #6ea3ff; --c1: #ff9a63; --c2: #4fd0a5; --good: #5fd39b; --warn: #ffb066; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.15rem; margin: 0 0 4px; }
.lead { color: var(--muted); margin: 0 0 20px; }
.muted { color: var(--muted); font-size: .9rem; margin: 0 0 14px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 18px 18px 20px; margin: 0 0 16px; }
.cards { display: grid; gap: 12px; margin: 0 0 16px;
  grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 14px 16px; }
.card b { display: block; font-size: 1.75rem; line-height: 1.2; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.card span { display: block; font-size: .9rem; font-weight: 600; }
.card small { display: block; color: var(--muted); font-size: .82rem; line-height: 1.4;
  margin-top: 4px; }
.good b { color: var(--good); } .warn b { color: var(--warn); }
.pair { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 6px; }
figure.small figcaption { font-weight: 400; font-size: .82rem; color: var(--muted);
  margin: 4px 0 0; }
img { display: block; width: 100%; height: auto; border-radius: 6px; image-rendering: pixelated; }
.strip { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.strip.pairs { grid-template-columns: repeat(auto-fill, minmax(108px, 1fr)); }
svg { display: block; width: 100%; max-width: 760px; height: auto; margin: 0 auto;
  overflow: visible; }
.rule { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--muted); font-size: 13px; font-variant-numeric: tabular-nums; }
.axis { fill: var(--muted); font-size: 13px; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.faint { stroke: var(--c0); opacity: .3; stroke-width: 1.1; }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.faint { fill: var(--c0); opacity: .3; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin-bottom: 4px; font-size: .85rem;
  color: var(--muted); }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px;
  vertical-align: middle; margin-right: 6px; background: var(--c0); }
.key.c1::before { background: var(--c1); } .key.c2::before { background: var(--c2); }
.key.faint::before { opacity: .35; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; vertical-align: top; padding: 7px 14px 7px 0;
  border-top: 1px solid var(--rule); }
tr:first-child td, tr:first-child th { border-top: 0; }
th { font-weight: 600; overflow-wrap: anywhere; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; font-weight: 600; }
td.text { color: var(--muted); }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 5px 10px;
  align-items: center; font-size: .88rem; }
.bars i { display: block; height: 12px; border-radius: 3px; background: var(--c0);
  min-width: 1px; }
.bars span { font-variant-numeric: tabular-nums; }
footer { color: var(--muted); font-size: .85rem; }
@media (max-width: 620px) {
  .tick, .axis { font-size: 20px; }
  .line { stroke-width: 3; }
  .metrics tr { display: grid; grid-template-columns: 1fr max-content; padding: 8px 0;
    border-top: 1px solid var(--rule); }
  .metrics td, .metrics th { border: 0; padding: 0 8px 0 0; }
  .metrics td.text { grid-column: 1 / -1; }
}
"""
