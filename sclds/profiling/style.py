"""Style and the one script of the report page."""

STYLE = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#111110;--soft:#55544f;--faint:#85847c;--line:#e4e3de;
--blue:#2a78d6;--teal:#1a9e72;--amber:#d99100;--violet:#6a56c2;--grey:#b4b3ab;--right:#0a8f2e}
@media(prefers-color-scheme:dark){:root{--page:#141413;--card:#1d1d1b;--ink:#f4f4f0;--soft:#c2c1b7;--faint:#8f8e85;
--line:#33332f;--blue:#4f97ea;--teal:#28b487;--amber:#dca12e;--violet:#9486e0;--grey:#65645d;--right:#3fc25f}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:40px 24px 72px}h1{font-size:30px;line-height:1.2;margin:0 0 6px;
letter-spacing:-.015em}h2{font-size:19px;margin:44px 0 4px;letter-spacing:-.01em}h3{font-size:14px;margin:0;
font-weight:600}p{margin:4px 0 14px;max-width:74ch}.lead,.note{color:var(--soft)}.note{font-size:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:24px 0 8px}
.tile{padding:14px 16px}.tile span{color:var(--soft);font-size:13px;display:block}.tile b{font-size:27px;
font-weight:650;letter-spacing:-.02em;display:block;line-height:1.3}.tile small{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--soft);font-size:13px;text-align:right;padding:0 0 8px 18px;white-space:nowrap}
td{text-align:right;padding:9px 0 9px 18px;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}td small{color:var(--faint);margin-left:7px}
.share{display:block;position:relative;height:5px;border-radius:3px;background:var(--line);margin-top:4px;min-width:86px}
.share span{position:absolute;inset:0 auto 0 0;background:var(--blue);border-radius:3px}
.share i{position:absolute;top:-2px;bottom:-2px;width:2px;background:var(--ink)}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:12px}
.curves .card{padding:12px 12px 6px}
.curves h3{display:flex;justify-content:space-between;padding:0 4px 4px 6px}
.curves h3 b{font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}svg line{stroke:var(--line)}svg text{fill:var(--faint);font-size:10.5px}
.raw,.mean{fill:none;stroke:var(--blue);stroke-linejoin:round}.raw{opacity:.28;stroke-width:1}.mean{stroke-width:2}
.end{fill:var(--blue);stroke:var(--card);stroke-width:2}
.bar{display:flex;gap:2px;height:28px;margin:4px 0 14px}.bar span{min-width:2px;border-radius:3px}
.legend{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:8px 28px}.legend li{display:flex;
align-items:center;gap:8px;font-variant-numeric:tabular-nums}.legend i{width:11px;height:11px;border-radius:3px}
.legend small{color:var(--faint);font-size:13px}
.data{background:var(--amber)}.forward{background:var(--blue)}.backward{background:var(--teal)}
.optimizer{background:var(--violet)}.other{background:var(--grey)}
.queries{display:grid;grid-template-columns:repeat(auto-fill,minmax(470px,1fr));gap:12px}
@media(max-width:560px){.queries{grid-template-columns:1fr}.hits{flex-wrap:wrap}}
.query{padding:14px 16px}.query p{margin:0 0 2px;font-weight:600}.query .note{font-weight:400;margin:0 0 12px}
.hits{display:flex;gap:8px;align-items:flex-start}.hit{width:76px;text-align:center;font-size:12px;color:var(--faint);margin:0}
.hit .frame{height:76px;border-radius:8px;background:#fff;display:grid;place-items:center;overflow:hidden;
border:1px solid var(--line);color:#6b6a63}.hit img{max-width:100%;max-height:100%}
.hit.right .frame{border:3px solid var(--right)}.hit.right{color:var(--right);font-weight:600}
.hit.missed{margin-left:auto;padding-left:8px;width:92px;border-left:1px solid var(--line)}
pre{margin:0;font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;
word-break:break-word}
.command{display:flex;gap:14px;align-items:flex-start;justify-content:space-between;margin-top:10px}
.command div{color:var(--soft);font-size:13px}button{font:inherit;font-size:13px;color:var(--soft);background:none;
border:1px solid var(--line);border-radius:6px;padding:2px 10px;cursor:pointer}button:hover{color:var(--ink)}
details summary{cursor:pointer;color:var(--soft)}details pre{margin-top:14px}
"""

SCRIPT = """
document.querySelectorAll("button[data-copy]").forEach(button => button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy" }, 1500);
}));
"""
