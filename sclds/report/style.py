"""Style of the report pages, beyond what all pages share."""

STYLE = """
:root{--rose:#c2476b;--sky:#3aa6c9;--lime:#7f9b2b}
@media(prefers-color-scheme:dark){:root{--rose:#e0708f;--sky:#56bfe0;--lime:#a3c04a}}
header .lead{margin-bottom:0}hr{border:0;border-top:1px solid var(--line);margin:56px 0 40px}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:16px 0 0;font-size:13.5px}
@media(max-width:560px){nav{flex-wrap:nowrap;overflow-x:auto;white-space:nowrap;padding-bottom:6px}}
nav a{color:var(--soft);text-decoration:none;border-bottom:1px solid transparent}
nav a:hover{color:var(--ink);border-color:var(--ink)}
h4{font-size:13px;font-weight:600;margin:14px 0 2px}section{scroll-margin-top:12px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px;margin:24px 0 8px}
.tile{padding:14px 16px}.tile span{color:var(--soft);font-size:13px;display:block}.tile b{font-size:27px;
font-weight:650;letter-spacing:-.02em;display:block;line-height:1.3}.tile small{color:var(--soft);font-size:13px}
@media(max-width:560px){.tiles{grid-template-columns:1fr 1fr;gap:8px}.tile{padding:10px 12px}.tile b{font-size:22px}}
.share{display:block;position:relative;height:5px;border-radius:3px;background:var(--line);margin-top:4px;
min-width:86px}
.share span{position:absolute;inset:0 auto 0 0;background:var(--blue);border-radius:3px}
.share i{position:absolute;top:-2px;bottom:-2px;width:2px;background:var(--ink)}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr));gap:12px;margin-bottom:12px}
.curves .card{padding:12px 12px 6px;min-width:0;
display:flex;flex-direction:column;justify-content:space-between}.curves .wide{grid-column:1/-1}
.curves h3{display:flex;justify-content:space-between;gap:12px;padding:0 4px 4px 6px}
.curves h3 b{font-variant-numeric:tabular-nums;white-space:nowrap}
.more{margin:0 0 12px}.more details summary{padding:4px 0}.more .curves{margin-top:10px}
svg{display:block;width:100%;height:auto}svg line{stroke:var(--line)}svg text{fill:var(--faint);font-size:10.5px}
.plot{touch-action:pan-y;cursor:crosshair;outline-offset:4px;border-radius:4px}
.plot:focus-visible{outline:2px solid var(--blue)}
.plot.narrow{display:none}@media(max-width:640px){.plot.narrow{display:block}.plot.wide{display:none}}
.raw,.mean{fill:none;stroke-linejoin:round}.raw{opacity:.28;stroke-width:1}.mean{stroke-width:2}
.behind{--c:var(--faint);stroke:var(--c);stroke-width:1.6;stroke-dasharray:2 3}
.level{stroke-dasharray:5 4}line.level{stroke:var(--ink);opacity:.55}
text.level{fill:var(--soft);stroke:var(--card);stroke-width:3px;paint-order:stroke}
.line0{--c:var(--blue)}.line1{--c:var(--amber)}.line2{--c:var(--teal)}.line3{--c:var(--violet)}.line4{--c:var(--rose)}
.line5{--c:var(--grey)}polyline.raw,polyline.mean{stroke:var(--c)}i[class^=line],i.behind,.tip i{background:var(--c)}
.end,.dot{fill:var(--c);stroke:var(--card);stroke-width:2}.dot.behind{stroke-dasharray:none}
line.hair{stroke:var(--soft);stroke-width:1;stroke-dasharray:none}
line.mark{stroke-width:1.5}line.restart,i.restart{--m:var(--rose)}line.fault,i.fault{--m:var(--rose)}
line.stall,i.stall{--m:var(--amber)}line.mark{stroke:var(--m);opacity:.75}line.restart{stroke-dasharray:4 3}
line.stall{opacity:.4;stroke-width:3}path.checkpoint{fill:var(--grey)}
i.mark{background:var(--m)}.legend i.mark{width:3px;height:14px;border-radius:1px}
.legend i.checkpoint{--m:var(--grey);width:0;
height:0;background:none;border:5px solid transparent;border-bottom:8px solid var(--grey);border-top:0}
.legend i.restart{background:repeating-linear-gradient(var(--m) 0 4px,transparent 4px 6px)}
.legend.key{margin:0 0 10px;font-size:13px}.legend.runs{margin:10px 0 0}
.curves .legend li{min-width:0;flex-wrap:wrap}.curves .legend{padding:2px 6px 6px;font-size:13px;gap:2px 16px}
.bar{display:flex;gap:2px;height:28px;margin:4px 0 14px}.bar span{min-width:2px;border-radius:3px}
.scaled .bar{height:22px;margin-bottom:6px}
.bar span:hover{filter:brightness(1.12)}
.legend{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:8px 28px}.legend li{display:flex;
align-items:center;gap:8px;font-variant-numeric:tabular-nums}
.legend i{width:11px;height:11px;border-radius:3px;flex:none}
.legend small{color:var(--faint);font-size:13px}.card+.card{margin-top:12px}
.curves .card+.card,.tiles .card+.card{margin-top:0}
.data{background:var(--amber)}.forward{background:var(--blue)}.backward{background:var(--teal)}
.optimizer{background:var(--violet)}.other{background:var(--grey)}
.phase0{background:var(--blue)}.phase1{background:var(--teal)}.phase2{background:var(--violet)}
.phase3{background:var(--amber)}
.phase4{background:var(--rose)}.phase5{background:var(--sky)}.phase6{background:var(--lime)}
.phase7{background:var(--grey)}
.scaled+.legend{margin-top:12px}
.tip{position:fixed;z-index:9;pointer-events:none;background:var(--card);color:var(--ink);border:1px solid var(--line);
border-radius:8px;padding:7px 10px;font-size:12.5px;line-height:1.45;max-width:min(320px,90vw);
box-shadow:0 4px 18px #0003;
font-variant-numeric:tabular-nums}.tip div{display:flex;gap:7px;align-items:center}.tip span{flex:1;color:var(--soft)}
.tip i{width:9px;height:9px;border-radius:2px;flex:none}.tip i[class^=phase],.tip i.data,.tip i.forward,.tip i.backward,
.tip i.optimizer,.tip i.other{background:inherit}.tip b{margin-left:10px;font-weight:600}
table.words td{white-space:normal;overflow-wrap:break-word;text-align:left;vertical-align:top}
table.wrap td{white-space:normal;
overflow-wrap:anywhere}
@media(min-width:561px){table.wrap td{min-width:7em}table.wrap td:first-child{min-width:10em}}
table.words th{text-align:left}
ul.card:not(.warn){padding-left:36px;margin:0}table.words td:first-child{min-width:150px}
.queries{display:grid;grid-template-columns:repeat(auto-fill,minmax(470px,1fr));gap:12px}
.queries .card+.card{margin-top:0}
@media(max-width:560px){.queries{grid-template-columns:1fr}.hits{flex-wrap:wrap}}
.query{padding:14px 16px}.query p{margin:0 0 2px;font-weight:600}.query .note{font-weight:400;margin:0 0 12px}
.hits{display:flex;gap:8px;align-items:flex-start}
.hit{width:76px;text-align:center;font-size:12px;color:var(--faint);margin:0}
.hit .frame{height:76px;border-radius:8px;background:#fff;display:grid;place-items:center;overflow:hidden;
border:1px solid var(--line);color:#6b6a63}.hit img{max-width:100%;max-height:100%}
.hit.right .frame{border:3px solid var(--right)}.hit.right{color:var(--right);font-weight:600}
.hit.missed{margin-left:auto;padding-left:8px;width:92px;border-left:1px solid var(--line)}
@media print{nav,button{display:none}.card{break-inside:avoid}}
"""
