"""Style of the report page, beyond what all pages share."""

STYLE = """
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:24px 0 8px}
.tile{padding:14px 16px}.tile span{color:var(--soft);font-size:13px;display:block}.tile b{font-size:27px;
font-weight:650;letter-spacing:-.02em;display:block;line-height:1.3}.tile small{color:var(--soft);font-size:13px}
.share{display:block;position:relative;height:5px;border-radius:3px;background:var(--line);margin-top:4px;min-width:86px}
.share span{position:absolute;inset:0 auto 0 0;background:var(--blue);border-radius:3px}
.share i{position:absolute;top:-2px;bottom:-2px;width:2px;background:var(--ink)}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:12px}
.curves .card{padding:12px 12px 6px}
.curves h3{display:flex;justify-content:space-between;padding:0 4px 4px 6px}
.curves h3 b{font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}svg line{stroke:var(--line)}svg text{fill:var(--faint);font-size:10.5px}
.raw,.mean{fill:none;stroke:var(--blue);stroke-linejoin:round}.raw{opacity:.28;stroke-width:1}.mean{stroke-width:2}
.level{stroke-dasharray:5 4}line.level{stroke:var(--ink);opacity:.55}
text.level{fill:var(--soft);stroke:var(--card);stroke-width:3px;paint-order:stroke}
.line0,.line1,.line2,.line3,.line4{stroke:var(--c);background:var(--c)}.line0{--c:var(--blue)}.line1{--c:var(--amber)}
.line2{--c:var(--teal)}.line3{--c:var(--violet)}.line4{--c:var(--grey)}
.curves .legend li{min-width:0;flex-wrap:wrap}.curves .legend{padding:2px 6px 6px;font-size:13px;gap:2px 16px}
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
"""
